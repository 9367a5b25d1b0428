import itertools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.data.scenes import Scenes
from research.errors import UserError
from research.tasks.detection import Detection
from tests.tasks.test_set_prediction import giou

RANDOM = np.random.default_rng(0)
NAMES = ("cell", "plate")


def task_of(**fields):
    return Detection(**{"size": 20, "max_boxes": 3, "class_names": NAMES, "image_shape": (None, None, 3), **fields})


def batch_of(max_boxes=3):
    """Four images with two, none, three and two boxes, of which the last has no weight."""
    counts, sizes = [2, 0, 3, 2], np.array([[20, 20], [20, 10], [10, 20], [20, 20]], np.int32)
    boxes, objects = np.zeros((4, max_boxes, 4), np.float32), np.full((4, max_boxes), -1, np.int32)
    random = np.random.default_rng(1)
    for image, count in enumerate(counts):
        low = random.uniform(0, 5, (count, 2))
        boxes[image, :count] = np.concatenate([low, low + random.uniform(1, 5, (count, 2))], axis=1)
        objects[image, :count] = random.integers(0, 2, count)
    image = random.integers(0, 256, (4, 20, 20, 3), np.uint8)
    weight = np.array([1, 1, 1, 0], np.float32)
    return {"image": image, "sizes": sizes, "boxes": boxes, "objects": objects, "weight": weight}


LOGITS = RANDOM.normal(size=(2, 4, 4, 3))
BOXES = RANDOM.uniform(0.2, 0.6, (2, 4, 4, 4))


def apply(images, sizes):
    return (jnp.float32(LOGITS), jnp.float32(BOXES)), {}


def sides(box):
    return [box[0] - box[2] / 2, box[1] - box[3] / 2, box[0] + box[2] / 2, box[1] + box[3] / 2]


def by_hand(batch, layer, image):
    """Cross-entropy, L1 distance and 1 - GIoU, summed over one image of one layer, of the best of all matchings."""
    p = np.exp(LOGITS[layer, image]) / np.exp(LOGITS[layer, image]).sum(-1, keepdims=True)
    height, width = batch["sizes"][image]
    true, labels = [], [label for label in batch["objects"][image] if label >= 0]
    for left, top, right, bottom in np.float64(batch["boxes"][image, : len(labels)]):
        box = [(left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height]
        true.append(np.array(box))
    boxes, best = BOXES[layer, image], None
    for order in itertools.permutations(range(4), len(labels)):
        distance = sum(np.abs(true[n] - boxes[query]).sum() for n, query in enumerate(order))
        apart = sum(1 - giou(sides(true[n]), sides(boxes[query])) for n, query in enumerate(order))
        cost = 5 * distance + 2 * apart - sum(p[query, labels[n]] for n, query in enumerate(order))
        if best is None or cost < best[0]:
            best = cost, order, distance, apart
    _, order, distance, apart = best
    classes = [2, 2, 2, 2]
    for n, query in enumerate(order):
        classes[query] = labels[n]
    entropy = sum((0.1 if c == 2 else 1) * -np.log(p[query, c]) for query, c in enumerate(classes))
    right = sum(p[query].argmax() == c for query, c in enumerate(classes) if c != 2)
    return entropy, distance, apart, right


def test_the_loss_is_equation_2_over_all_layers():
    """By float64 numpy; an image without boxes counts as one box, one of weight 0 as nothing."""
    batch = batch_of()
    metrics, _ = task_of(class_weight=0.7).loss(apply, batch)
    parts = np.array([[by_hand(batch, layer, image) for image in range(3)] for layer in range(2)])
    entropy, distance, apart, right = parts.sum(axis=1).T
    total = 0.7 * entropy.sum() + 5 * distance.sum() + 2 * apart.sum()
    np.testing.assert_allclose(metrics["loss"], [total, 2 + 1 + 3], rtol=1e-5)
    np.testing.assert_allclose(metrics["class_loss"], [entropy[-1], 5], rtol=1e-5)
    np.testing.assert_allclose(metrics["box_distance"], [distance[-1], 5], rtol=1e-5)
    np.testing.assert_allclose(metrics["giou"], [5 - apart[-1], 5], rtol=1e-5)
    np.testing.assert_allclose(metrics["class_accuracy"], [right[-1], 5])


def test_places_for_more_boxes_and_pixels_of_padding_change_nothing():
    few, _ = task_of().loss(apply, batch_of())
    more, _ = task_of(max_boxes=4).loss(apply, batch_of(4))
    for name, pair in few.items():
        np.testing.assert_allclose(pair, more[name], rtol=1e-6)
    batch, other = batch_of(), batch_of()
    other["image"][1, :, 10:] = other["image"][2, 10:] = 77
    for one, two in zip(task_of().model_inputs(batch), task_of().model_inputs(other), strict=True):
        np.testing.assert_array_equal(one, two)
    other["image"][1, 0, 9] += 100
    assert (task_of().model_inputs(batch)[0] != task_of().model_inputs(other)[0]).any()


def test_micro_batches_sum_to_the_batch():
    whole, _ = task_of().loss(apply, batch_of())
    halves = []
    for rows in (slice(0, 2), slice(2, 4)):
        part = {name: array[rows] for name, array in batch_of().items()}
        outputs = (jnp.float32(LOGITS[:, rows]), jnp.float32(BOXES[:, rows]))
        halves.append(task_of().loss(lambda images, sizes, outputs=outputs: (outputs, {}), part)[0])
    for name, pair in whole.items():
        np.testing.assert_allclose(pair, np.add(halves[0][name], halves[1][name]), rtol=1e-5)


def test_a_batch_without_boxes_has_finite_gradients():
    batch = batch_of()
    batch["objects"][:], batch["boxes"][:] = -1, 0

    def loss(boxes):
        metrics, _ = task_of().loss(lambda images, sizes: ((jnp.float32(LOGITS), boxes), {}), batch)
        return metrics["loss"][0] / metrics["loss"][1]

    value, gradient = jax.value_and_grad(loss)(jnp.float32(BOXES))
    assert np.isfinite(value) and not gradient.any()


def test_fewer_queries_than_boxes_are_refused():
    with pytest.raises(UserError, match=r"task\.max_boxes 5 is more than model\.num_queries 4: use as many queries"):
        task_of(max_boxes=5).loss(apply, batch_of(5))


def answer_of(task):
    example = {"image": np.zeros((10, 40, 3), np.uint8)}
    probabilities = np.array([[0.1, 0.2], [0.9, 0.05], [0.3, 0.6]])
    boxes = np.array([[0, 0, 1, 1], [0.25, 0.1, 0.5, 0.5], [-0.5, 0.5, 0.5, 1.5]])
    return example, task.answer(example, [{"probabilities": probabilities, "boxes": boxes}])


def test_answers_are_in_pixels_of_the_image_the_most_probable_first():
    example, answer = answer_of(task_of())
    assert answer["text"] == "cell 0.90 at 10,1,20,5; plate 0.60 at 0,5,20,10"
    assert answer["boxes"] == [[10, 1, 20, 5], [0, 5, 20, 10], [0, 0, 40, 10]]
    assert answer["labels"] == ["cell", "plate", "plate"] and answer["scores"] == pytest.approx([0.9, 0.6, 0.2])
    view = task_of(size=8).view(example, answer)
    assert view.tokens["queries"] == ["", "cell 0.90", "plate 0.60"] and view.image.shape == (8, 8, 3)
    assert answer_of(task_of(threshold=0.95))[1]["text"] == "nothing"
    picture = task_of().picture(example, answer)
    assert picture.shape == (10, 84, 3) and (picture[1, 44 + 10] == [128, 0, 0]).all()  # a corner of the first box
    marked = {**example, "boxes": np.array([[3, 2, 9, 8]], np.float32), "objects": np.array([1])}
    assert (task_of().picture(marked, answer)[7, 88 + 3] == [0, 128, 0]).all()


def test_scenes_have_the_classes_of_their_objects(tmp_path):
    source = Scenes(size=16, num_train=2)
    task = Detection(size=16).prepare(source, tmp_path)
    assert task.class_names == source.object_names and len(source.class_names) == len(source.object_names) + 1
    assert task.image_shape == (None, None, 3) and task.label_names(source) == source.object_names
    task.check_source(source, tmp_path)
    with pytest.raises(UserError, match=r"the data have .* classes, not "):
        task.check_source(Scenes(glyphs="emoji"), tmp_path)
    example = source.examples("train")[0]
    assert task.labels(example) == example["objects"].tolist()
    assert task.remarks({"objects": np.zeros(101)}) == ["has more than 100 boxes"] and not task.remarks(example)


def test_too_many_boxes_are_refused_before_training():
    examples = types.SimpleNamespace(box_counts=[3, 4])
    with pytest.raises(UserError, match=r"image 2 has 4 boxes, and task\.max_boxes is 3: use a larger one"):
        task_of().rows(examples, train=True, seed=0)


def test_scores_without_pycocotools_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(UserError, match="need the package pycocotools: install the extra detection"):
        task_of().scorer()


def test_a_row_is_shown_with_its_boxes():
    batch = batch_of()
    batch["boxes"][0, 0], batch["objects"][0, 0] = [1, 2, 3, 4], 1
    assert task_of().show(batch, 0).startswith("20 x 20 pixels: plate at 1,2,3,4; ")
    assert task_of().show(batch, 1) == "20 x 10 pixels: nothing"
