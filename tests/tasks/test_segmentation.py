import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.data.windows import starts
from research.errors import UserError
from research.tasks.losses import soft_dice
from research.tasks.segmentation import Segmentation, from_runs, to_runs

RANDOM = np.random.default_rng(0)
NAMES = ("membrane", "cell", "rest")


def example(height=9, width=7):
    mask = RANDOM.integers(0, 3, (height, width)).astype(np.uint8)
    mask[0, :2] = 255
    return {"image": RANDOM.integers(0, 256, (height, width, 1), np.uint8), "mask": mask}


def task_of(**fields):
    return Segmentation(size=6, class_names=NAMES, image_shape=(None, None, 1), **fields)


def test_the_loss_is_cross_entropy_and_dice_of_each_image():
    """By float64 numpy, over the pixels that count; images without any, and those of weight 0, count for nothing."""
    logits = RANDOM.normal(size=(4, 6, 6, 3))
    mask = RANDOM.integers(0, 3, (4, 6, 6)).astype(np.uint8)
    mask[0, :2], mask[1] = 255, 255
    batch = {"image": np.zeros((4, 6, 6, 1), np.uint8), "mask": mask, "weight": np.array([1, 1, 1, 0], np.float32)}
    metrics, _ = task_of(dice=0.5).loss(lambda images: (jnp.float32(logits), {}), batch)
    losses, right, pixels = [], 0, 0
    for row in (0, 2):
        seen = mask[row] != 255
        p = np.exp(logits[row]) / np.exp(logits[row]).sum(-1, keepdims=True)
        p, labels = p[seen], mask[row][seen]
        entropy = -np.log(p[np.arange(len(labels)), labels]).mean()
        one_hot = np.eye(3)[labels]
        dice = (2 * (p * one_hot).sum(0) + 1) / (p.sum(0) + one_hot.sum(0) + 1)
        losses.append(entropy + 0.5 * (1 - dice.mean()))
        right += (p.argmax(-1) == labels).sum()
        pixels += len(labels)
    np.testing.assert_allclose(metrics["loss"], [sum(losses), 2], rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], [right, pixels])


def test_soft_dice_of_certain_answers_is_that_of_masks():
    labels = RANDOM.integers(0, 2, (1, 8, 8))
    answer = RANDOM.integers(0, 2, (1, 8, 8))
    found = soft_dice(jnp.float32(100 * np.eye(2)[answer]), jnp.asarray(labels), jnp.ones((1, 8, 8), bool))
    dice = [(2 * ((labels == n) & (answer == n)).sum() + 1) / ((labels == n).sum() + (answer == n).sum() + 1)
            for n in range(2)]  # fmt: skip
    np.testing.assert_allclose(found, [np.mean(dice)], rtol=1e-5)


def answered(task, examples, predict):
    """Answers made of `predict`, a function from images to probabilities."""
    rows = task.questions(examples)
    windows = rows.batch(np.arange(len(rows)), np.zeros(len(rows), int), None)
    assert set(windows) == {"image"}
    raw = np.asarray(predict(windows["image"]))
    return [
        task.answer(given, [raw[row] for row in np.flatnonzero(rows.owners() == owner)])
        for owner, given in enumerate(examples)
    ]


def test_windows_are_joined_into_an_answer_of_the_images_size():
    """Where the probabilities are a function of the pixel, the windows' answer is that of the whole image."""
    examples = [example(), example(6, 6), example(4, 17)]

    def probabilities(images):
        levels = np.float64(images[..., 0]) / 255
        return np.stack([levels, 0.9 - levels, np.full_like(levels, 0.45)], axis=-1)

    for overlap in (0.0, 0.5):
        answers = answered(task_of(overlap=overlap), examples, probabilities)
        for given, answer in zip(examples, answers, strict=True):
            mask = from_runs(answer["mask"])
            np.testing.assert_array_equal(mask, probabilities(given["image"]).argmax(-1))
            assert answer["shares"] == {name: (mask == n).mean() for n, name in enumerate(NAMES)}
            assert answer["text"].split(", ")[0].endswith("%") and answer["classes"] == list(NAMES)


class Shifted:
    """A model that depends on direction: the logits of a pixel are those of its left neighbour and its own level."""

    @staticmethod
    def apply(variables, images):
        left = jnp.roll(images, 1, axis=2)
        return jnp.concatenate([left, images, jnp.zeros_like(images)], axis=-1)


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def test_flips_are_the_mean_over_mirrored_windows():
    images = RANDOM.integers(0, 256, (2, 6, 6, 1), np.uint8)
    given = np.float64(images) / 127.5 - 1
    wanted = softmax(np.concatenate([np.roll(given, 1, 2), given, 0 * given], -1))
    mirrored = softmax(np.concatenate([np.roll(given, -1, 2), given, 0 * given], -1))
    for flips, expected in (
        ("off", wanted),
        ("horizontal", (wanted + mirrored) / 2),
        ("both", (wanted + mirrored) / 2),
    ):
        found = task_of(flips=flips).predict(Shifted, {}, {"image": jnp.asarray(images)})
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_scores_are_those_of_the_answered_masks():
    task, examples = task_of(), [example(), example(12, 6)]
    answers = answered(task, examples, lambda images: np.eye(3)[images[..., 0] % 3])
    scorer = task.scorer()
    for given, answer in zip(examples, answers, strict=True):
        scorer.add(given, answer)
    right = total = 0
    for given in examples:
        seen = given["mask"] != 255
        right += (given["image"][..., 0] % 3 == given["mask"])[seen].sum()
        total += seen.sum()
    assert scorer.result()["pixel_accuracy"] == right / total and set(scorer.names) <= set(scorer.result())


def test_runs_hold_a_mask():
    for mask in (RANDOM.integers(0, 4, (5, 3)), np.zeros((2, 9), np.uint8), np.full((1, 1), 254)):
        runs = to_runs(mask)
        np.testing.assert_array_equal(from_runs(runs), mask)
        assert runs["size"] == list(mask.shape) and sum(runs["lengths"]) == mask.size
    assert len(to_runs(np.zeros((2, 9)))["lengths"]) == 1


def test_a_picture_shows_image_answer_and_truth():
    task, given = task_of(), example()
    answer = {"text": "", "mask": to_runs(np.ones((9, 7), np.uint8))}
    picture = task.picture(given, answer)
    assert picture.shape == (9, 3 * 7 + 2 * 4, 3)
    grey = np.repeat(given["image"], 3, -1)
    np.testing.assert_array_equal(picture[:, :7], grey)
    np.testing.assert_array_equal(picture[:, 11:18], (grey + np.array([0, 128, 0])) // 2)  # PASCAL VOC's second colour
    np.testing.assert_array_equal(picture[0, 22:24], grey[0, :2])  # ignored pixels keep their shade
    assert task.picture({"image": given["image"]}, answer).shape == (9, 2 * 7 + 4, 3)


def test_classes_of_the_pixels_are_counted_before_training():
    assert set(task_of().labels(example())) == {0, 1, 2}


def test_batches_of_training_and_evaluation_have_one_shape():
    task, examples = task_of(turns=True, scale=(0.5, 2.0)), [example(), example(3, 20)]
    for train in (True, False):
        batch = task.rows(examples, train=train, seed=0).first()
        assert batch["image"].shape[1:] == (6, 6, 1) and batch["mask"].shape[1:] == (6, 6)
    assert len(task.rows(examples, train=False, seed=0)) == 4 + len(starts(20, 6, 0.0))
    assert "pixels: " in task.show(batch, 0)


def test_windows_of_training_are_placed_around_the_foreground():
    mask = np.zeros((60, 60), np.uint8)
    mask[50, 3] = 2
    examples = [{"image": mask[..., None], "mask": mask}]
    batches = [
        task_of(foreground=share).rows(examples, train=True, seed=0).batch(np.zeros(40, int), np.arange(40), None)
        for share in (0.0, 1.0)
    ]
    found = [(batch["mask"] == 2).any(axis=(1, 2)).mean() for batch in batches]
    assert found[0] < 0.2 and found[1] == 1


@pytest.mark.parametrize("scale", [(2.0, 1.0), (1e-6, 1.0), (1.0, 1e6)])
def test_a_scale_that_is_no_range_is_refused(scale):
    with pytest.raises(UserError, match=r"task\.scale .* is not a range of factors"):
        task_of(scale=scale)


def test_a_source_of_other_classes_is_refused(tmp_path):
    source = types.SimpleNamespace(class_names=NAMES, image_shape=(None, None, 1))
    task = Segmentation(size=6).prepare(source, tmp_path)
    assert task.image_shape == (None, None, 1) and task.model_fields() == {"num_classes": 3}
    with pytest.raises(UserError, match="the data have 2 classes, not 3"):
        task.check_source(types.SimpleNamespace(class_names=NAMES[:2]), tmp_path)


def test_gradients_are_finite_where_nothing_counts():
    batch = {"image": np.zeros((1, 6, 6, 1), np.uint8), "mask": np.full((1, 6, 6), 255, np.uint8), "weight": np.ones(1)}

    def loss(logits):
        return task_of().loss(lambda images: (logits, {}), batch)[0]["loss"][0]

    assert np.isfinite(jax.grad(loss)(jnp.ones((1, 6, 6, 3)))).all()
