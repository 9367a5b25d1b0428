import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.config import build
from research.data.digits import Digits
from research.data.transforms.geometry import Augmentation
from research.errors import UserError
from research.tasks.classification import Classification
from research.training.inference import Precision
from research.training.state import create_state
from research.training.step import Step


def test_mixup_mixes_images_and_losses_with_the_neighbour():
    random = np.random.default_rng(0)
    task = Classification(mixup=0.5, mean=0.0, deviation=1.0)
    batch = {
        "image": random.integers(0, 256, (4, 2, 2, 1), np.uint8),
        "label": np.array([0, 3, 1, 2], np.int32),
        "mix": np.array([1.0, 0.7, 0.2, 0.5], np.float32),
        "weight": np.array([1, 1, 1, 0], np.float32),
    }

    def apply(images):  # the "model" is linear: its logits are the pixels
        return images.reshape(4, 4) * 5, {}

    metrics, _ = task.loss(apply, task.mixed(batch))
    pixels, share = np.float64(batch["image"]).reshape(4, 4) / 255, np.float64(batch["mix"])[:, None]
    logits = (share * pixels + (1 - share) * np.roll(pixels, 1, axis=0)) * 5
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    rows = np.arange(4)
    own, other = -log_probabilities[rows, batch["label"]], -log_probabilities[rows, np.roll(batch["label"], 1)]
    losses = share[:, 0] * own + (1 - share[:, 0]) * other
    assert float(metrics["loss"][0]) == pytest.approx(losses[:3].sum(), rel=1e-5)
    assert float(metrics["loss"][1]) == 3


def test_cutmix_takes_boxes_and_their_share_of_the_labels_from_the_neighbour():
    random = np.random.default_rng(0)
    task = Classification(mixup=0.5, cutmix=1.0, mean=0.0, deviation=1.0, label_smoothing=0.1)
    boxes = [(0, 1, 2, 4), (1, 0, 3, 2), (0, 0, 0, 0), (0, 0, 3, 4)]  # the third is mixed up, the last all another's
    batch = {
        "image": random.integers(0, 256, (4, 3, 4, 2), np.uint8),
        "label": np.array([0, 3, 1, 2], np.int32),
        "mix": np.array([1 - 6 / 12, 1 - 4 / 12, 0.3, 0.0], np.float32),
        "box": np.array(boxes, np.int32),
        "weight": np.ones(4, np.float32),
    }
    pixels = np.float64(batch["image"]) / 255
    mixed = pixels.copy()
    for row, (top, left, bottom, right) in enumerate(boxes):
        mixed[row, top:bottom, left:right] = pixels[row - 1, top:bottom, left:right]
    mixed[2] = 0.3 * pixels[2] + 0.7 * pixels[1]
    batch = task.mixed(batch)
    np.testing.assert_allclose(task.model_inputs(batch)[0], mixed, atol=1e-6)
    metrics, _ = task.loss(lambda images: (images.sum(2).reshape(4, 6)[:, :5], {}), batch)
    logits = mixed.sum(2).reshape(4, 6)[:, :5]
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    losses = []
    for row, share in enumerate(batch["mix"]):
        targets = np.full(5, 0.1 / 5)
        targets[batch["label"][row]] += 0.9 * share
        targets[batch["label"][row - 1]] += 0.9 * (1 - share)
        losses.append(-(targets * log_probabilities[row]).sum())
    assert float(metrics["loss"][0]) == pytest.approx(sum(losses), rel=1e-5)


@pytest.mark.parametrize("cutmix", [0.0, 1.0])
def test_micro_batches_train_on_the_mixtures_of_the_whole_batch(cutmix: float):
    """One step of a linear model, against float64 numpy."""

    class Linear(nn.Module):
        @nn.compact
        def __call__(self, images, *, train=False):
            return nn.Dense(4, kernel_init=nn.initializers.normal(0.1))(images.reshape(len(images), -1))

    random = np.random.default_rng(0)
    examples = [{"image": random.integers(0, 256, (4, 4, 1), np.uint8), "label": index % 4} for index in range(8)]
    task = Classification(mixup=0.5, cutmix=cutmix, class_names=("a", "b", "c", "d"))
    batch = task.rows(examples, train=True, seed=0).first(8) | {"weight": np.ones(8, np.float32)}
    pixels = (np.float64(batch["image"]) / 255 - 0.5) / 0.5
    mixed = np.empty_like(pixels)
    for row, share in enumerate(batch["mix"]):
        top, left, bottom, right = batch["box"][row] if cutmix else (0, 0, 0, 0)
        mixed[row] = share * pixels[row] + (1 - share) * pixels[row - 1]
        if bottom > top and right > left:
            mixed[row] = pixels[row]
            mixed[row, top:bottom, left:right] = pixels[row - 1, top:bottom, left:right]
    mixed, one_hot = mixed.reshape(8, -1), np.eye(4)[batch["label"]]
    targets = batch["mix"][:, None] * one_hot + (1 - batch["mix"][:, None]) * np.roll(one_hot, 1, axis=0)
    for accumulate in (1, 2, 4):
        precision = Precision.parse("params=float32,compute=float32")
        step = Step(Linear(), task, optax.sgd(0.1), precision, 0, accumulate)
        state = create_state(Linear(), task.model_inputs(batch), optax.sgd(0.1), seed=0, ema=False)
        new = jax.jit(step.train)(state, batch)[0].params["Dense_0"]
        old = {name: np.float64(array) for name, array in state.params["Dense_0"].items()}
        exponents = np.exp(mixed @ old["kernel"] + old["bias"])
        errors = (exponents / exponents.sum(axis=1, keepdims=True) - targets) / 8
        np.testing.assert_allclose(new["kernel"], old["kernel"] - 0.1 * mixed.T @ errors, atol=1e-6)
        np.testing.assert_allclose(new["bias"], old["bias"] - 0.1 * errors.sum(axis=0), atol=1e-6)


def test_parameters_of_mixtures_are_checked():
    for name in ("mixup", "cutmix"):
        with pytest.raises(UserError, match=rf"task\.{name} is -1\.0: use 0 or more"):
            build(Classification, {name: -1.0}, "task")


def test_mixup_and_augmentation_are_for_training_only():
    examples = Digits().examples("train")[:8]
    task = Classification(mixup=0.3, augmentation=Augmentation(shift=0.2))
    rows = np.arange(8), np.zeros(8, np.int64)
    train = task.rows(examples, train=True, seed=0).batch(*rows, None)
    evaluation = task.rows(examples, train=False, seed=0).batch(*rows, None)
    assert (train["mix"] >= 0).all() and (train["mix"] <= 1).all() and "mix" not in evaluation
    assert (evaluation["image"] == np.stack([example["image"] for example in examples])).all()
    assert (train["image"] != evaluation["image"]).any()


def test_each_colour_may_have_its_own_mean_and_deviation():
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    task = build(Classification, {"mean": list(mean), "deviation": list(deviation)}, "task")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), np.uint8)
    expected = (np.float64(pixels) / 255 - mean) / deviation
    np.testing.assert_allclose(task.model_inputs({"image": pixels})[0], expected, atol=1e-5)
    with pytest.raises(UserError, match=r"task\.mean has 3 numbers for images of 1 channels"):
        task.model_inputs({"image": pixels[..., :1]})


def test_predictions_are_probabilities_with_names():
    task = Classification(class_names=("cat", "dog"))
    assert task.answer({}, [np.array([0.2, 0.8])]) == {"label": "dog", "probability": 0.8}
    assert task.model_inputs({"image": jnp.full((1, 1, 1, 1), 255, jnp.uint8)})[0].item() == 1.0
