import numpy as np
import pytest
from PIL import Image

from research.data.transforms.geometry import IGNORED, Augmentation, cropped, flipped, moved, resized
from research.data.transforms.policies import EITHER_WAY
from research.data.transforms.policies import changed as operated


def disc(size=32):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return (255 * (np.hypot(x, y) < size / 4)).astype(np.uint8)[..., None]


def changed(image, seed, **fields):
    return Augmentation(**fields)({"image": image}, np.random.default_rng(seed))["image"]


def test_no_augmentation_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    assert (Augmentation()({"image": image}, np.random.default_rng(1))["image"] == image).all()


def test_rotation_is_about_the_centre():
    image = disc()
    rotated = Augmentation(rotate=180.0)({"image": image}, np.random.default_rng(2))["image"]
    assert np.abs(rotated.astype(int) - image).mean() < 12  # a disc in the middle stays where it is


def test_zoom_and_shift_move_mass_as_they_say():
    areas = [changed(disc(), seed, zoom=0.5).sum() / disc().sum() for seed in range(40)]
    assert 0.2 < min(areas) < 0.6 and 1.6 < max(areas) < 2.3  # 0.5^2 to 1.5^2 of the area
    columns = []
    for seed in range(40):
        mass = changed(disc(), seed, shift=0.25)[..., 0].sum(axis=0)
        columns.append((mass * np.arange(32)).sum() / mass.sum() - 15.5)
    assert 5 < max(columns) < 8.2 and -8.2 < min(columns) < -5  # a quarter of 32 either way


def test_flip_happens_in_half_of_the_cases():
    image = np.arange(4, dtype=np.uint8).reshape(1, 4, 1)
    flips = [changed(image, seed, flip=True)[0, 0, 0] == 3 for seed in range(200)]
    assert 70 < sum(flips) < 130


BOXES = np.array([[3, 5, 17, 11], [20, 2, 30, 22], [8, 12, 12, 24]], np.float32)
SIZE = (24, 32)


def painted(box, size=SIZE):
    """A black picture with a white box."""
    image = np.zeros((*size, 3), np.uint8)
    left, top, right, bottom = box.astype(int)
    image[top:bottom, left:right] = 255
    return image


def extent(shown):
    """Left, top, right and bottom of what is True; zeros where nothing is."""
    if not shown.any():
        return [0, 0, 0, 0]
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def marked(box, *, pillow=False, size=SIZE):
    """A painted box with all marks: its mask, the box itself, its corners as keypoints."""
    image, (left, top, right, bottom) = painted(box, size), box
    corners = np.array([[left, top, 2], [right, top, 2], [right, bottom, 2], [left, bottom, 2]], np.float32)
    mask = (image[..., 0] > 0).astype(np.uint8) * 7
    image = Image.fromarray(image) if pillow else image
    return {"image": image, "boxes": box[None], "mask": mask, "keypoints": corners, "label": 1}


def check(result, tolerance):
    """What the marks say is what is seen in the picture."""
    pixels = np.asarray(result["image"])[..., 0]
    seen, (box,) = extent(pixels > 127), result["boxes"]
    assert result["mask"].shape == pixels.shape and result["mask"].dtype == np.uint8
    assert result["boxes"].dtype == result["keypoints"].dtype == np.float32 and result["label"] == 1
    if not any(seen):
        assert (box[2] - box[0]) * (box[3] - box[1]) <= tolerance * max(pixels.shape)
        return False
    np.testing.assert_allclose(box, seen, atol=tolerance)
    np.testing.assert_allclose(extent(result["mask"] == 7), seen, atol=tolerance)
    low, high = result["keypoints"][:, :2].min(axis=0), result["keypoints"][:, :2].max(axis=0)
    height, width = pixels.shape
    np.testing.assert_allclose(np.clip([*low, *high], 0, (width, height) * 2), seen, atol=tolerance)
    return True


@pytest.mark.parametrize("pillow", [False, True])
def test_marks_are_mirrored_with_the_image(pillow):
    for box in BOXES:
        example = marked(box, pillow=pillow)
        before = {name: np.array(value) for name, value in example.items()}
        result = flipped(example)
        assert (np.asarray(result["image"]) == before["image"][:, ::-1]).all()
        assert (result["mask"] == before["mask"][:, ::-1]).all()
        assert check(result, 0)
        assert all((np.array(example[name]) == before[name]).all() for name in before)  # the given one is as it was
        assert all((np.asarray(flipped(result)[name]) == before[name]).all() for name in before)


def test_marks_are_cropped_and_resized_with_the_image():
    random, seen = np.random.default_rng(0), 0
    for number in range(120):
        left, top = random.uniform(0, 16), random.uniform(0, 12)
        crop = (left, top, random.uniform(left + 8, 32), random.uniform(top + 6, 24))
        result = resized(marked(BOXES[number % 3], pillow=True), crop, (48, 40), "bilinear")
        scale = max(40 / (crop[2] - crop[0]), 48 / (crop[3] - crop[1]))
        seen += check(result, max(1.0, scale / 2))  # the edges of pixels of the old image are blurred
    assert seen > 60


def test_masks_are_resized_by_the_nearest_label():
    """Against Pillow's own, with sizes at which no new pixel lies between two old ones."""
    random = np.random.default_rng(1)
    mask = random.integers(0, 200, SIZE, np.uint8)
    for crop in ((0, 0, 32, 24), (3, 2, 27, 20), (1.3, 2.6, 30.1, 19.9)):
        example = {"image": Image.new("RGB", (32, 24)), "mask": mask}
        expected = Image.fromarray(mask).resize((64, 32), Image.Resampling.NEAREST, crop)
        assert (resized(example, crop, (32, 64), "bicubic")["mask"] == np.asarray(expected)).all()
        wide = resized({**example, "mask": mask.astype(np.int64) + 1000}, crop, (32, 64), "bicubic")["mask"]
        assert wide.dtype == np.int64 and (wide == np.asarray(expected) + np.int64(1000)).all()


def test_what_a_crop_leaves_out_and_brings_in():
    example = marked(BOXES[0], pillow=True)  # 3, 5, 17, 11
    result = cropped(example, -4, 7, 30, 30)
    assert result["image"].size == (30, 30) and result["boxes"].tolist() == [[7, 0, 21, 4]] and check(result, 0)
    assert (result["mask"][:, :4] == IGNORED).all() and (result["mask"][17:] == IGNORED).all()
    assert set(np.unique(result["mask"][:17, 4:])) == {0, 7}
    assert result["keypoints"].tolist() == [[7, -2, 0], [21, -2, 0], [21, 4, 2], [7, 4, 2]]
    gone = cropped(example, 18, 0, 10, 24)
    ((left, top, right, bottom),) = gone["boxes"]
    assert (right - left) * (bottom - top) == 0 and not gone["keypoints"][:, 2].any()
    nothing = flipped({"image": example["image"], "boxes": np.zeros((0, 4), np.float32)})
    assert nothing["boxes"].shape == (0, 4)


@pytest.mark.parametrize(
    "fields", [{"rotate": 40.0}, {"shift": 0.3}, {"zoom": 0.4}, {"shear": 25.0}, {"flip": True, "rotate": 10.0}]
)
def test_affine_changes_move_marks_with_the_image(fields):
    """A box about the middle, all of which stays in view."""
    augmentation = Augmentation(**fields)
    box, seen = np.array([80, 90, 125, 118], np.float32), 0
    for seed in range(30):
        example = marked(box, size=(200, 200))
        seen += check(augmentation(example, np.random.default_rng(seed)), 1.5)
    assert seen == 30


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", EITHER_WAY)
def test_policies_move_marks_with_the_image(name, sign):
    for share in (0.2, 0.55):
        example = marked(np.array([80, 90, 125, 118], np.float32), pillow=True, size=(240, 200))
        result = operated(example, name, sign * share * EITHER_WAY[name])
        pixels = np.asarray(result["image"])[..., 0]
        assert check({**result, "image": np.where(pixels > 191, pixels, 0)[..., None]}, 1.5)  # grey comes in


def test_other_operations_leave_marks_alone():
    example = marked(BOXES[0], pillow=True)
    result = operated(example, "Invert", 0.0)
    assert all(result[name] is example[name] for name in ("boxes", "mask", "keypoints"))
    assert (np.asarray(result["image"]) == 255 - np.asarray(example["image"])).all()


def test_a_moved_box_is_the_upright_one_around_its_corners():
    """A quarter turn, counter-clockwise, of the corners by hand."""
    turn = (0, -1, 10, 1, 0, 0)  # what is at (x, y) was at (10 - y, x)
    example = {"image": None, "boxes": np.array([[2, 1, 5, 9]], np.float32)}
    assert moved(example, np.zeros((10, 10, 3), np.uint8), turn)["boxes"].tolist() == [[1, 5, 9, 8]]
