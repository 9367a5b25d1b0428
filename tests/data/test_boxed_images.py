import numpy as np
import pytest

from research.data.boxed_images import FittedImages, FittedQuestions, RandomlyFitted
from research.data.transforms.geometry import Augmentation
from research.errors import UserError

EPOCHS = 60


def drawing(height=30, width=40):
    """White boxes on black: what is seen tells where they are."""
    image = np.zeros((height, width, 3), np.uint8)
    boxes = np.array([[4, 6, 20, 18], [28, 20, 38, 28]], np.float32)
    for channel, (left, top, right, bottom) in enumerate(boxes.astype(int)):
        image[top:bottom, left:right, channel] = 255
    return {"image": image, "boxes": boxes, "objects": np.array([0, 1], np.int32)}


def rows_of(rows, count=1):
    return rows.batch(np.zeros(count, int), np.arange(count), None)


def seen(image, channel):
    """The box around what is bright in a channel."""
    bright = image[..., channel] >= 128
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.parametrize("size", [20, 40, 80])
def test_an_image_keeps_its_shape_and_its_boxes_lie_on_what_is_seen(size):
    batch = rows_of(FittedImages([drawing()], size, 4))
    assert batch["image"].shape == (1, size, size, 3) and batch["sizes"].tolist() == [[size * 3 // 4, size]]
    assert batch["objects"].tolist() == [[0, 1, -1, -1]] and not batch["image"][0, size * 3 // 4 :].any()
    for channel, box in enumerate(batch["boxes"][0, :2]):
        np.testing.assert_allclose(box, drawing()["boxes"][channel] * size / 40, atol=1e-4)
        np.testing.assert_allclose(seen(batch["image"][0], channel), box, atol=1)


@pytest.mark.parametrize(("short_side", "size"), [(30, (30, 40)), (60, (45, 60)), (45, (45, 60))])
def test_the_shorter_side_is_limited_too(short_side, size):
    """As DetrImageProcessor: the shorter side becomes `short_side` unless the longer one would be more than `size`."""
    batch = rows_of(FittedImages([drawing()], 60, 4, short_side=short_side))
    assert batch["image"].shape == (1, 60, 60, 3) and tuple(batch["sizes"][0]) == size
    for channel, box in enumerate(batch["boxes"][0, :2]):
        np.testing.assert_allclose(seen(batch["image"][0], channel), box, atol=1)
    rows = RandomlyFitted([drawing()], 60, 2, 0.5, 1.0, Augmentation(), 0, short_side=short_side)
    sides = rows_of(rows, EPOCHS)["sizes"][:, 0]
    assert size[0] // 2 <= sides.min() < 0.6 * size[0] and 0.9 * size[0] < sides.max() <= size[0]


def test_crowds_are_left_out_and_too_many_boxes_refused():
    example = {**drawing(), "crowd": np.array([True, False])}
    batch = rows_of(FittedImages([example], 20, 2))
    assert batch["objects"].tolist() == [[1, -1]]
    with pytest.raises(UserError, match=r"image 1 has 2 boxes, and task\.max_boxes is 1: use a larger one"):
        rows_of(FittedImages([drawing()], 20, 1))


def test_questions_are_the_images_alone():
    batch = rows_of(FittedQuestions([{"image": drawing()["image"]}], 20, 1))
    np.testing.assert_array_equal(batch["image"], rows_of(FittedImages([drawing()], 20, 2))["image"])
    assert set(batch) == {"image", "sizes"}


def test_random_parts_move_boxes_along_and_drop_those_cut_to_nothing():
    rows = RandomlyFitted([drawing()], 80, 2, 0.5, 0.3, Augmentation(flip=True), 0)
    batch = rows_of(rows, EPOCHS)
    counts = (batch["objects"] >= 0).sum(axis=1)
    assert {*counts} == {0, 1, 2} or {*counts} == {1, 2}
    for row in range(EPOCHS):
        height, width = batch["sizes"][row]
        assert max(height, width) >= 39 and not batch["image"][row, height:].any()
        for place in range(counts[row]):
            box, channel = batch["boxes"][row, place], batch["objects"][row, place]
            assert (box[2:] > box[:2]).all() and (box <= [width, height] * 2).all()
            if (box[2:] - box[:2]).min() > 4:
                np.testing.assert_allclose(seen(batch["image"][row], channel), box, atol=2)
        for channel in {0, 1} - {*batch["objects"][row].tolist()}:  # of a box that was dropped nothing is seen
            assert batch["image"][row, ..., channel].max() < 128
    lefts = batch["boxes"][:, 0, 0] / batch["sizes"][:, 1]
    assert lefts.std() > 0.1 and len({tuple(size) for size in batch["sizes"].tolist()}) > 30


def test_what_is_random_is_a_function_of_seed_epoch_and_index():
    rows = RandomlyFitted([drawing()] * 2, 40, 2, 0.5, 0.3, Augmentation(flip=True), 3)
    one, other = (rows.batch(np.array(indices), np.array([5, 5]), None) for indices in ([0, 1], [1, 0]))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name][::-1])
    assert (one["boxes"][0] != one["boxes"][1]).any()


def test_grey_images():
    example = {**drawing(), "image": drawing()["image"][..., :1]}
    assert rows_of(FittedImages([example], 20, 2))["image"].shape == (1, 20, 20, 1)
