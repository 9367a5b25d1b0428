import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import build
from research.errors import UserError
from research.models.vit import ViT
from research.parallel.mesh import MeshShape, make_mesh
from research.tasks.packed_classification import PackedClassification
from research.training.evaluation import Evaluator, Split
from research.training.inference import Inference, Precision
from tests.layers.random_params import random_params

SIZES = [(8, 8), (2, 10), (10, 2), (4, 4), (1, 1), (7, 5), (2, 2), (6, 6), (30, 3), (8, 8)]
RANDOM = np.random.default_rng(0)
EXAMPLES = [{"image": RANDOM.integers(0, 256, (*size, 3), np.uint8), "label": n % 3} for n, size in enumerate(SIZES)]
FIELDS = {"patch_size": 2, "max_tokens": 16, "row_tokens": 20, "images_per_row": 3}
TASK = PackedClassification(**FIELDS, class_names=("a", "b", "c"))
MODEL = ViT(width=8, num_layers=1, num_heads=2, mlp_width=16, pool="mean", positions="sincos2d", **TASK.model_fields())


def batch_of(task, **fields):
    dataset = task.rows(EXAMPLES, seed=3, **{"train": False} | fields)
    count = len(dataset)
    return dataset.batch(np.arange(count), np.zeros(count, int), None) | {"weight": np.ones(count, np.float32)}


def variables():
    return random_params(MODEL, *TASK.model_inputs(batch_of(TASK)))


def evaluator(batch_size):
    precision = Precision.parse("params=float32,compute=float32")
    return Evaluator(Inference(MODEL, TASK, precision), make_mesh(MeshShape()), batch_size)


def plain_logits(image):
    """Of one image in the ordinary model, whose patches are cut by hand."""
    pixels = (jnp.asarray(image[None], jnp.float32) / 255 - 0.5) / 0.5
    return np.asarray(MODEL.apply(variables(), pixels)[0], np.float64)


def test_every_image_counts_once():
    """Against float64 numpy, with logits of its own for every slot, smoothing, and a row of weight 0."""
    task = PackedClassification(**FIELDS, class_names=("a", "b", "c"), label_smoothing=0.1)
    batch = batch_of(task)
    batch["weight"][1] = 0
    logits = RANDOM.normal(size=(*batch["label"].shape, 3))
    losses, right = [], []
    for row, slot in np.argwhere(batch["label"] >= 0):
        if row != 1:
            scores, label = logits[row, slot], batch["label"][row, slot]
            log_probabilities = scores - np.log(np.exp(scores).sum())
            losses.append(-0.9 * log_probabilities[label] - 0.1 * log_probabilities.mean())
            right.append(scores.argmax() == label)
    metrics, _ = task.loss(lambda *inputs, method: (jnp.float32(logits), {}), batch)
    assert float(metrics["loss"][0]) == pytest.approx(sum(losses), rel=1e-5)
    assert (float(metrics["accuracy"][0]), float(metrics["accuracy"][1])) == (sum(right), len(right))


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_an_evaluation_is_the_mean_over_images_for_any_batch(batch_size):
    whole = [example for example in EXAMPLES if example["image"].shape in ((8, 8, 3), (4, 4, 3), (2, 10, 3))]
    losses = []
    for example in whole:
        scores = plain_logits(example["image"])
        losses.append(np.log(np.exp(scores).sum()) - scores[example["label"]])
    measured = evaluator(batch_size).metrics(variables(), TASK.rows(whole, train=False, seed=0))
    assert len(whole) == 4 and measured["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_answers_are_in_the_order_of_the_questions_for_any_size():
    questions = [{"image": example["image"]} for example in EXAMPLES]
    grey = [{"image": np.full((9, 4, 1), 200, np.uint8)}, {"image": np.full((9, 4, 3), 200, np.uint8)}]
    answers = dict(evaluator(4).answers(variables(), Split(TASK, questions + grey)))
    assert len(answers) == 12 and answers[10] == pytest.approx(answers[11])
    for number in (0, 1, 2, 3, 7, 9):
        scores = plain_logits(EXAMPLES[number]["image"])
        probabilities = np.exp(scores) / np.exp(scores).sum()
        assert answers[number]["label"] == "abc"[probabilities.argmax()]
        assert answers[number]["probability"] == pytest.approx(probabilities.max(), rel=1e-4)


def test_an_image_with_transparency_is_refused():
    with pytest.raises(UserError, match=r"image 1 is uint8 \[4, 4, 4\]: give uint8"):
        list(evaluator(1).answers({}, Split(TASK, [{"image": np.zeros((4, 4, 4), np.uint8)}])))


def test_training_draws_crops_of_every_epoch():
    task = PackedClassification(**FIELDS, class_names=("a", "b", "c"), crop=0.5)
    patches = {kind: (batch_of(task, train=kind)["segments"] > 0).sum() for kind in (True, False)}
    assert patches[True] < patches[False]


def test_gradients_reach_every_parameter():
    batch = jax.tree.map(jnp.asarray, batch_of(TASK))

    def loss(variables):
        metrics, _ = TASK.loss(lambda *inputs, method: (MODEL.apply(variables, *inputs, method=method), {}), batch)
        return metrics["loss"][0]

    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(jax.grad(loss)(variables())))


def test_a_row_is_shown_image_by_image():
    batch = batch_of(TASK)
    row = int(np.flatnonzero((batch["segments"] == 0).any(axis=1))[0])
    *images, padding = TASK.show(batch, row).splitlines()
    assert len(images) == (batch["label"][row] >= 0).sum() and padding.endswith("of 20 tokens")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"row_tokens": 15}, r"task\.row_tokens 15 cannot hold an image of task\.max_tokens 16: use 16 or more"),
        ({"patch_size": 0}, r"task\.patch_size is 0: use 1 or more"),
        ({"images_per_row": 0}, r"task\.images_per_row is 0: use 1 or more"),
        ({"crop": 1.5}, r"task\.crop is 1\.5: use more than 0 and at most 1"),
    ],
)
def test_impossible_fields_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        build(PackedClassification, FIELDS | fields, "task")
