import itertools
import math

import numpy as np
import pytest
from PIL import Image

from research.data.packing import PackedImages, pack, patch_grid, to_patches
from research.data.transforms.geometry import Augmentation
from research.errors import UserError

RANDOM = np.random.default_rng(0)
SIZES = [(4, 4), (8, 4), (4, 12), (8, 8), (2, 2), (6, 4), (4, 4), (12, 4)]
EXAMPLES = [
    {"image": RANDOM.integers(0, 256, (*size, 3), np.uint8), "label": label} for label, size in enumerate(SIZES)
]


def packed(examples=EXAMPLES, **fields):
    fields = {"patch_size": 2, "max_tokens": 16, "row_tokens": 24, "images_per_row": 3, "seed": 1} | fields
    return PackedImages(examples, **fields)


def all_rows(dataset, epoch=0):
    return dataset.batch(np.arange(len(dataset)), np.full(len(dataset), epoch), None)


@pytest.mark.parametrize(
    ("height", "width", "patch_size", "max_tokens", "grid"),
    [
        (224, 224, 16, 196, (14, 14)),
        (480, 480, 16, 196, (14, 14)),  # exact, where a float's square root would round down to 13
        (480, 640, 16, 196, (12, 16)),
        (100, 100, 16, 196, (6, 6)),  # not enlarged
        (1, 1, 16, 196, (1, 1)),
        (5, 4000, 16, 196, (1, 196)),
        (4000, 5, 16, 7, (7, 1)),
        (30, 47, 16, 196, (1, 2)),
        (300, 470, 16, 6, (2, 3)),  # 1.96 x 3.07 before rounding
    ],
)
def test_grids_of_known_sizes(height, width, patch_size, max_tokens, grid):
    assert patch_grid(height, width, patch_size, max_tokens) == grid


def test_no_larger_grid_keeps_the_ratio_as_well():
    """Against all grids that contain it and are allowed."""

    def distortion(rows, columns):
        return abs(math.log(rows / columns * width / height))

    for height, width, most in RANDOM.integers((1, 1, 1), (80, 80, 30), (300, 3)).tolist():
        rows, columns = patch_grid(height, width, 4, most)
        limits = max(height // 4, 1), max(width // 4, 1)
        assert rows <= limits[0] and columns <= limits[1] and rows * columns <= most
        for larger in itertools.product(range(rows, limits[0] + 1), range(columns, limits[1] + 1)):
            if math.prod(larger) <= most:
                assert distortion(*larger) >= distortion(rows, columns) - 1e-9


def test_rows_are_those_of_first_fit_decreasing():
    tokens = RANDOM.integers(1, 20, 200)
    rows = pack(tokens, 24, 4, seed=0)
    assert sorted(index for row in rows for index in row) == list(range(200))
    bins = []
    for size in sorted(tokens.tolist(), reverse=True):
        fitting = [members for members in bins if len(members) < 4 and sum(members) + size <= 24]
        fitting[0].append(size) if fitting else bins.append([size])
    assert sorted(sorted(tokens[list(row)].tolist()) for row in rows) == sorted(map(sorted, bins))
    assert rows == pack(tokens, 24, 4, seed=0) != pack(tokens, 24, 4, seed=1)


def test_an_image_that_fits_no_row_is_refused():
    with pytest.raises(UserError, match="an image of 9 patches does not fit into 8: use a larger row_tokens"):
        pack([3, 9], 8, 2, seed=0)


def test_every_image_can_be_read_back_from_its_row():
    dataset = packed()
    batch, found = all_rows(dataset), []
    assert batch["patches"].dtype == np.uint8 and batch["patches"].shape == (len(dataset), 24, 12)
    assert all(batch[name].dtype == np.int32 for name in ("positions", "segments", "label"))
    for row, slot in np.argwhere(batch["label"] >= 0):
        label = batch["label"][row, slot]
        image = np.zeros_like(EXAMPLES[label]["image"])
        here = batch["segments"][row] == slot + 1
        for patch, (top, left) in zip(batch["patches"][row][here], 2 * batch["positions"][row][here], strict=True):
            image[top : top + 2, left : left + 2] = patch.reshape(2, 2, 3)
        np.testing.assert_array_equal(image, EXAMPLES[label]["image"])
        found.append(label)
    assert sorted(found) == list(range(len(SIZES)))
    padding = batch["segments"] == 0
    assert not batch["patches"][padding].any() and dataset.padding == padding.mean()


def test_sizes_are_asked_for_where_they_are_known():
    class Sized(list):
        reads = 0

        def __getitem__(self, index):
            Sized.reads += 1
            return super().__getitem__(index)

        def image_size(self, index):
            return SIZES[index]

    dataset = packed(Sized(EXAMPLES))
    assert dataset.rows == packed().rows and Sized.reads == 0


def test_crops_have_many_shapes_and_fit_the_rows():
    dataset = packed(augmentation=Augmentation(), crop=0.5)
    first, again, later = (all_rows(dataset, epoch) for epoch in (0, 0, 1))
    assert all((first[name] == again[name]).all() for name in first)
    np.testing.assert_array_equal(first["label"], later["label"])
    shapes = set()
    for epoch in range(200):
        batch = all_rows(dataset, epoch)
        for row, slot in np.argwhere(batch["label"] == 3):  # 8 x 8 pixels
            here = batch["segments"][row] == slot + 1
            shapes.add(tuple((batch["positions"][row][here].max(axis=0) + 1).tolist()))
    assert shapes == {(rows, columns) for rows in (2, 3, 4) for columns in (2, 3, 4)}


def test_a_crop_has_no_more_patches_than_its_row_has_room_for():
    """100 x 60 pixels are 5 x 3 patches, but some of their crops 4 x 4 or 2 x 8."""
    examples = [{"image": np.ones((100, 60, 3), np.uint8), "label": label} for label in range(2)]
    dataset = packed(examples, row_tokens=30, augmentation=Augmentation(), crop=0.3)
    assert dataset.rows == [(0, 1)] and dataset.padding == 0
    grids = set()
    for epoch in range(30):
        batch = all_rows(dataset, epoch)
        for segment in (1, 2):
            tokens = batch["segments"][0] == segment
            assert 1 <= tokens.sum() <= 15
            grids.add(tuple(batch["positions"][0][tokens].max(axis=0).tolist()))
    assert len(grids) > 3


def test_large_images_are_made_smaller_and_odd_ones_fitted():
    image = RANDOM.integers(0, 256, (30, 47, 3), np.uint8)
    small = np.asarray(Image.fromarray(image).resize((32, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(to_patches(image, (1, 2), 16)[1].reshape(16, 16, 3), small[:, 16:])
    batch = all_rows(packed([{"image": image, "label": 0}], max_tokens=6))
    assert (batch["segments"] > 0).sum() == 6


def test_grey_images_count_as_colour_ones_and_a_pixel_as_a_patch():
    batch = all_rows(packed([{"image": np.full((1, 1, 1), 7, np.uint8), "label": 4}]))
    assert (batch["patches"][0, 0] == 7).all() and batch["segments"].sum() == 1 and batch["label"][0, 0] == 4


@pytest.mark.parametrize("image", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_what_is_no_grey_or_colour_image_is_named(image):
    with pytest.raises(UserError, match=r"image 2 is \w+ \[4, 4.*\]: give uint8 \[height, width, channels\] with 1"):
        len(packed([EXAMPLES[0], {"image": image, "label": 0}]))
