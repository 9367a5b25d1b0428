import numpy as np
import pytest

from research.data.transforms.geometry import IGNORED, Augmentation, turned
from research.data.windows import CoveringWindows, RandomWindows, around_foreground, gaussian, joined, starts

RANDOM = np.random.default_rng(0)


def example(height, width, channels=1):
    """An image whose pixels are its mask's labels."""
    mask = RANDOM.integers(0, 200, (height, width)).astype(np.uint8)
    return {"image": np.repeat(mask[..., None], channels, axis=-1), "mask": mask}


def random_windows(examples, size=6, scale=(1.0, 1.0), turns=False, seed=0, foreground=0.0):
    return RandomWindows(examples, size, scale, turns, Augmentation(), seed, foreground)


def batch_of(rows, epoch=0):
    indices = np.arange(len(rows))
    return rows.batch(indices, np.full(len(rows), epoch), None)


@pytest.mark.parametrize(
    ("length", "size", "overlap", "found"),
    [
        (110, 64, 0.5, [0, 23, 46]),  # as nnU-Net's documentation has it
        (64, 64, 0.5, [0]),
        (10, 64, 0.5, [0]),
        (128, 64, 0.0, [0, 64]),
        (129, 64, 0.0, [0, 32, 65]),
    ],
)
def test_starts(length, size, overlap, found):
    assert starts(length, size, overlap) == found


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("turns", [False, True])
def test_image_and_mask_move_together(channels, turns):
    """Also where the image is smaller than the window: there it is black, and its mask ignored."""
    rows = random_windows([example(9, 5, channels), example(20, 31, channels), example(3, 3, channels)], turns=turns)
    for epoch in range(8):
        batch = batch_of(rows, epoch)
        assert batch["image"].shape == (3, 6, 6, channels) and batch["mask"].shape == (3, 6, 6)
        inside = batch["mask"] != IGNORED
        for channel in range(channels):
            np.testing.assert_array_equal(batch["image"][..., channel], np.where(inside, batch["mask"], 0))
        assert inside.sum(axis=(1, 2)).tolist() == [30, 36, 9]


def test_windows_are_a_function_of_seed_epoch_and_index():
    examples = [example(20, 20), example(20, 20)]
    first, again = (batch_of(random_windows(examples, turns=True))["mask"] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    for other in (batch_of(random_windows(examples, turns=True), 1), batch_of(random_windows(examples, seed=1))):
        assert not np.array_equal(first, other["mask"])


def rare(height=64, width=64):
    """One pixel of class 1 and a square of class 2 on a ground of class 0, with ignored pixels beside them."""
    mask = np.zeros((height, width), np.uint8)
    mask[0] = IGNORED
    mask[int(RANDOM.integers(1, height)), int(RANDOM.integers(width // 2))] = 1
    row, column = int(RANDOM.integers(1, height - 3)), int(RANDOM.integers(width // 2, width - 3))
    mask[row : row + 3, column : column + 3] = 2
    return {"image": mask[..., None], "mask": mask}


def shares(rows, epochs):
    """Of all windows, with class 1, with class 2 and with either."""
    masks = np.concatenate([batch_of(rows, epoch)["mask"] for epoch in range(epochs)])
    ones, twos = ((masks == label).any(axis=(1, 2)) for label in (1, 2))
    return ones.mean(), twos.mean(), (ones | twos).mean()


def test_a_third_of_the_windows_is_placed_around_the_foreground():
    """Each class of the image equally often, whatever its size; the others are where they would have been."""
    examples = [rare() for _ in range(40)]
    plain, sought = (random_windows(examples, 8, turns=True, foreground=share) for share in (0.0, 1 / 3))
    without, found = shares(plain, 30), shares(sought, 30)
    assert without[2] < 0.06
    for label in (0, 1):
        assert found[label] == pytest.approx(1 / 6 + 5 / 6 * without[label], abs=0.04)
    assert found[2] == pytest.approx(1 / 3 + 2 / 3 * without[2], abs=0.05)
    same = np.mean([
        (batch_of(plain, epoch)["image"] == batch_of(sought, epoch)["image"]).all(axis=(1, 2, 3)) for epoch in range(5)
    ])  # fmt: skip
    assert same > 0.6
    np.testing.assert_array_equal(batch_of(sought, 3)["mask"], batch_of(sought, 3)["mask"])
    assert shares(random_windows(examples, 8, foreground=1.0), 3)[2] == 1


@pytest.mark.parametrize("shape", [(9, 64), (5, 5), (64, 7)])
def test_a_window_around_the_foreground_stays_as_near_to_the_image_as_others(shape):
    mask = np.zeros(shape, np.uint8)
    mask[-1, 2] = 3
    top, left = around_foreground(mask, 8, np.random.default_rng(0))
    assert 0 <= shape[0] - 1 - top < 8 and 0 <= 2 - left < 8
    for corner, whole in ((top, shape[0]), (left, shape[1])):
        assert min(whole - 8, 0) <= corner <= max(whole - 8, 0)


def test_without_a_foreground_windows_are_where_they_were():
    mask = np.zeros((20, 20), np.uint8)
    mask[3:5] = IGNORED
    examples = [{"image": RANDOM.integers(0, 255, (20, 20, 1)).astype(np.uint8), "mask": mask}]
    first, second = (batch_of(random_windows(examples, foreground=share))["image"] for share in (0.0, 1.0))
    np.testing.assert_array_equal(first, second)


def test_turns_are_the_eight_ways_to_lay_a_square():
    one = example(6, 6)
    rows = random_windows([one], turns=True)
    seen = {batch_of(rows, epoch)["mask"].tobytes() for epoch in range(100)}
    mirrored = (one["mask"], one["mask"][:, ::-1])
    assert seen == {np.rot90(mask, quarters).tobytes() for mask in mirrored for quarters in range(4)}


def test_scaled_masks_take_the_nearest_label_and_invent_none():
    checks = np.kron(np.array([[3, 90], [90, 3]], np.uint8), np.ones((16, 16), np.uint8))
    rows = random_windows([{"image": checks[..., None], "mask": checks}], size=24, scale=(0.5, 3.0))
    sizes = set()
    for epoch in range(30):
        batch = batch_of(rows, epoch)
        assert {*np.unique(batch["mask"])} <= {3, 90, IGNORED}
        inside = batch["mask"] != IGNORED
        off = np.abs(batch["image"][..., 0].astype(int) - batch["mask"])[inside]
        assert (off > 44).mean() < 0.05  # only pixels on an edge may be nearer to the other shade
        sizes.add(int(inside.sum()))
    assert len(sizes) > 5


@pytest.mark.parametrize("quarters", range(5))
def test_quarter_turns(quarters):
    """Image, mask, boxes and points, against numpy's turn of an image with one white pixel."""
    image = np.zeros((4, 6, 1), np.uint8)
    image[1, 4] = 255
    given = {"image": image, "mask": image[..., 0], "boxes": np.array([[4.0, 1, 5, 2]], np.float32)}
    found = turned(given | {"keypoints": np.array([[4.5, 1.5]], np.float32)}, quarters)
    np.testing.assert_array_equal(found["image"], np.rot90(image, quarters))
    np.testing.assert_array_equal(found["mask"], found["image"][..., 0])
    row, column = np.argwhere(found["mask"])[0]
    np.testing.assert_allclose(found["boxes"], [[column, row, column + 1, row + 1]], atol=1e-5)
    np.testing.assert_allclose(found["keypoints"], [[column + 0.5, row + 0.5]], atol=1e-5)


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5])
def test_covering_windows_count_every_pixel_once(overlap):
    examples = [example(13, 6), example(4, 17), example(6, 6)]
    rows = CoveringWindows(examples, 6, overlap, masks=True)
    batch, owners = batch_of(rows), rows.owners()
    for owner, given in enumerate(examples):
        seen = np.full(given["mask"].shape, IGNORED, np.uint8)
        for window, mask in zip(rows.windows, batch["mask"], strict=True):
            if window.owner != owner:
                continue
            inside = mask[: seen.shape[0] - window.top, : seen.shape[1] - window.left]
            assert (mask != IGNORED).sum() == (inside != IGNORED).sum()
            part = seen[window.top : window.top + 6, window.left : window.left + 6]
            assert ((part == IGNORED) | (inside == IGNORED)).all()  # none was there before
            part[inside != IGNORED] = inside[inside != IGNORED]
        np.testing.assert_array_equal(seen, given["mask"])
        assert (owners == owner).sum() == len(starts(given["mask"].shape[0], 6, overlap)) * len(
            starts(given["mask"].shape[1], 6, overlap)
        )


def test_joined_windows_give_the_whole_back_and_weigh_their_middles():
    given = RANDOM.normal(size=(13, 9, 2)).astype(np.float32)
    windows = CoveringWindows([example(13, 9)], 6, 0.5, masks=False).windows
    parts = [given[w.top : w.top + 6, w.left : w.left + 6] for w in windows]
    np.testing.assert_allclose(joined(parts, windows, (13, 9)), given, atol=1e-5)
    ones = [np.full((6, 6, 1), number, np.float32) for number in (0, 1)]
    found = joined(ones, [windows[0]._replace(top=0, left=0), windows[0]._replace(top=0, left=3)], (6, 9))[0, :, 0]
    weights = np.exp(-0.5 * ((np.arange(6) - 2.5) / 0.75) ** 2)
    wanted = [0, 0, 0, *(weights[:3] / (weights[:3] + weights[3:])), 1, 1, 1]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert gaussian(6).max() == gaussian(6)[2, 3] and gaussian(6).min() > 0
