import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from research.config import build
from research.errors import UserError
from research.tasks.pretext import Pretext, distant_permutations, rotated, shuffled_tiles

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
EXAMPLES = [{"image": image, "label": 3} for image in IMAGES]


def batch_of(task, indices=range(6), epoch=0):
    dataset = task.rows(EXAMPLES, train=True, seed=5)
    indices = np.array(indices)
    return dataset.batch(indices, np.full(len(indices), epoch), None) | {"weight": np.ones(len(indices), np.float32)}


def test_every_image_is_turned_four_ways():
    images, labels = rotated(jnp.asarray(IMAGES))
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        np.testing.assert_array_equal(image, np.rot90(IMAGES[index % 6], int(label)))
    assert labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 6
    with pytest.raises(UserError, match="4 x 6 pixels cannot be turned: use square ones"):
        rotated(jnp.zeros((1, 4, 6, 1)))


def test_tiles_are_put_where_the_order_says():
    orders = np.array(list(itertools.islice(itertools.permutations(range(4)), 6)))
    shuffled = shuffled_tiles(jnp.asarray(IMAGES), jnp.asarray(orders), 2)
    corners = [(0, 0), (0, 2), (2, 0), (2, 2)]
    for image, original, order in zip(shuffled, IMAGES, orders, strict=True):
        for (row, column), source in zip(corners, order, strict=True):
            top, left = corners[source]
            np.testing.assert_array_equal(
                image[row : row + 2, column : column + 2], original[top : top + 2, left : left + 2]
            )
    with pytest.raises(UserError, match="4 x 4 pixels make no 3 x 3 tiles"):
        shuffled_tiles(jnp.asarray(IMAGES), jnp.zeros((6, 9), int), 3)


@pytest.mark.parametrize(("length", "count", "expected"), [(4, 24, 24), (4, 100, 24), (9, 30, 30)])
def test_permutations_are_different_and_far_apart(length, count, expected):
    orders = distant_permutations(length, count)
    assert len({tuple(order) for order in orders}) == expected
    assert (np.sort(orders) == np.arange(length)).all()
    first, second = orders[:2]
    assert (first != second).all()  # as far apart as two permutations can be


@pytest.mark.parametrize(("change", "classes", "count"), [("rotation", 4, 24), ("jigsaw", 24, 6)])
def test_the_loss_asks_for_the_change(change, classes, count):
    """A model that knows the answer has no loss; one that knows nothing is right by chance."""
    task = Pretext(change)
    batch = batch_of(task)
    assert task.model_fields() == {"num_classes": classes} and "label" not in batch
    labels = np.repeat(np.arange(4), 6) if change == "rotation" else batch["order"]
    metrics, _ = task.loss(lambda images: (50.0 * np.eye(classes, dtype=np.float32)[labels], {}), batch)
    assert float(metrics["loss"][0]) == pytest.approx(0, abs=1e-4)
    assert metrics["accuracy"] == (count, count)
    metrics, _ = task.loss(lambda images: (jnp.zeros((count, classes)), {}), batch)
    assert float(metrics["loss"][0] / count) == pytest.approx(np.log(classes))


def test_orders_are_drawn_anew_in_every_epoch_and_follow_the_index():
    task = Pretext("jigsaw")
    first, again, later = batch_of(task)["order"], batch_of(task, [3, 1])["order"], batch_of(task, epoch=1)["order"]
    assert again.tolist() == [first[3], first[1]]
    assert first.tolist() != later.tolist()


@pytest.mark.parametrize("fields", [{"change": "flip"}, {"grid": 1}, {"permutations": 1}])
def test_impossible_tasks_are_refused(fields):
    with pytest.raises(UserError, match=r"task\.\w+ (is 1: use 2 or more|must be Literal\['rotation', 'jigsaw'\])"):
        build(Pretext, fields, "task")
