"""Images of any size and shape as sequences of patches, several to a row (Dehghani et al. 2023, "Patch n' Pack")."""

import bisect
import collections
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from research.data.plans import Length
from research.data.randomness import generator
from research.data.rows import Rows
from research.data.transforms.geometry import Augmentation
from research.errors import UserError

CHANNELS = 3
"""Of every patch: grey images count as colour ones."""


@dataclasses.dataclass(frozen=True)
class PackedImages(Rows):
    """Rows of `row_tokens` patches: the patches of up to `images_per_row` images, one after the other, then padding.

    An example of this dataset is a row, not an image. Which images share a row is settled before training, from their
    sizes alone: so every image is in exactly one row, rows have one static shape, an epoch and an evaluation see each
    image once, and a row is as random access as any example. Examples whose `image_size(index)` tells height and width
    are not decoded for that; others are, all of them once.

    A batch holds `patches`, uint8 [rows, row_tokens, patch_size² · 3]; `positions`, int32 [rows, row_tokens, 2], row
    and column of each patch in its image; `segments`, int32 [rows, row_tokens], k for the row's k-th image from 1 on
    and 0 for padding; `label`, int32 [rows, images_per_row], -1 where a row has fewer images.

    max_tokens: patches of an image at most; see `patch_grid`. augmentation: None in evaluation. crop: training cuts
    each side of an image to a random share of it, this at least. An image never has more patches than were counted for
    it when the rows were made, so it is cropped and then resized to what the whole image would have at most.
    """

    examples: Sequence[Mapping[str, Any]]
    patch_size: int
    max_tokens: int
    row_tokens: int
    images_per_row: int
    seed: int
    augmentation: Augmentation | None = None
    crop: float = 1.0

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def num_patches(self) -> np.ndarray:
        """Patches of each image, int64."""
        grids = [
            patch_grid(*self._size(index), self.patch_size, self.max_tokens) for index in range(len(self.examples))
        ]
        return np.array([math.prod(grid) for grid in grids], np.int64)

    @functools.cached_property
    def rows(self) -> list[tuple[int, ...]]:
        """The images of each row."""
        return pack(self.num_patches, self.row_tokens, self.images_per_row, self.seed)

    @property
    def padding(self) -> float:
        """The share of padding in the rows, where no image is cropped."""
        return 1 - float(self.num_patches.sum()) / (len(self) * self.row_tokens)

    def batch(self, indices: np.ndarray, epochs: np.ndarray, length: Length | None) -> dict[str, np.ndarray]:
        shape = (len(indices), self.row_tokens)
        batch = {
            "patches": np.zeros((*shape, self.patch_size**2 * CHANNELS), np.uint8),
            "positions": np.zeros((*shape, 2), np.int32),
            "segments": np.zeros(shape, np.int32),
            "label": np.full((len(indices), self.images_per_row), -1, np.int32),
        }
        for row, (index, epoch) in enumerate(zip(indices, epochs, strict=True)):
            start = 0
            for slot, member in enumerate(self.rows[int(index)]):
                example = self.examples[member]
                image, most = self._augmented(_checked(example["image"], member), member, int(epoch))
                grid = patch_grid(*image.shape[:2], patch_size=self.patch_size, max_tokens=most)
                here = row, slice(start, start + math.prod(grid))
                batch["patches"][here] = to_patches(image, grid, self.patch_size)
                batch["positions"][here] = np.indices(grid).reshape(2, -1).T
                batch["segments"][here] = slot + 1
                batch["label"][row, slot] = example.get("label", 0)  # a question has none
                start += math.prod(grid)
        return batch

    def _size(self, index: int) -> tuple[int, int]:
        if hasattr(self.examples, "image_size"):
            return self.examples.image_size(index)
        return _checked(self.examples[index]["image"], index).shape[:2]

    def _augmented(self, image: np.ndarray, index: int, epoch: int) -> tuple[np.ndarray, int]:
        """The image as this epoch sees it, and how many patches it may have."""
        if self.augmentation is None:
            return image, self.max_tokens
        if self.crop < 1:
            random = generator(self.seed, epoch, index, "crop")
            sides = [max(round(side * random.uniform(self.crop, 1)), 1) for side in image.shape[:2]]
            top, left = (
                int(random.integers(whole - side + 1)) for whole, side in zip(image.shape, sides, strict=False)
            )
            image = image[top : top + sides[0], left : left + sides[1]]
        example = self.augmentation({"image": image}, generator(self.seed, epoch, index, "affine"))
        return example["image"], int(self.num_patches[index])


def patch_grid(height: int, width: int, patch_size: int, max_tokens: int) -> tuple[int, int]:
    """Rows and columns of patches of an image that keeps its aspect ratio: the largest size, rounded to whole patches.

    Both are rounded down, and up again where that keeps the ratio better with at most `max_tokens` patches. An image is
    not enlarged, except for a side shorter than one patch, which becomes one.
    """
    # Whole numbers: rows · columns = max_tokens and rows / columns = height / width before rounding.
    limits = max(height // patch_size, 1), max(width // patch_size, 1)
    rows = min(max(math.isqrt(max_tokens * height // width), 1), limits[0], max_tokens)
    columns = min(max(math.isqrt(max_tokens * width // height), 1), limits[1], max_tokens)
    grids = [(rows, columns), (rows + 1, columns), (rows, columns + 1)]
    fitting = [
        grid for grid in grids if math.prod(grid) <= max_tokens and grid[0] <= limits[0] and grid[1] <= limits[1]
    ]

    def distortion(grid: tuple[int, int]) -> float:
        sides = grid[0] * width, grid[1] * height
        return max(sides) / min(sides)

    return min(fitting, key=distortion)


def pack(tokens: Sequence[int] | np.ndarray, row_tokens: int, images_per_row: int, seed: int) -> list[tuple[int, ...]]:
    """The indices of the images in each row: a row takes the largest image that still fits until none does.

    This is first-fit decreasing. Images of one size come in an order drawn from the seed; rows are sorted by their
    first image, and images within a row too.
    """
    waiting = collections.defaultdict(list)
    for index in generator(seed, 0, 0, "rows").permutation(len(tokens)):
        waiting[int(tokens[index])].append(int(index))
    sizes = sorted(waiting)
    if sizes and sizes[-1] > row_tokens:
        raise UserError(f"an image of {sizes[-1]} patches does not fit into {row_tokens}: use a larger row_tokens")
    rows = []
    while sizes:
        members, free = [], row_tokens
        while len(members) < images_per_row and (fitting := bisect.bisect_right(sizes, free)):
            size = sizes[fitting - 1]
            members.append(waiting[size].pop())
            free -= size
            if not waiting[size]:
                sizes.remove(size)
        rows.append(tuple(sorted(members)))
    return sorted(rows)


def to_patches(image: np.ndarray, grid: tuple[int, int], patch_size: int) -> np.ndarray:
    """uint8 [height, width, 1 or 3] resized to the grid (rows, columns): uint8 [rows · columns, patch_size² · 3]."""
    height, width = (side * patch_size for side in grid)
    image = np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], CHANNELS)))
    if image.shape[:2] != (height, width):
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    tiles = image.reshape(grid[0], patch_size, grid[1], patch_size, CHANNELS).swapaxes(1, 2)
    return tiles.reshape(grid[0] * grid[1], -1)


def _checked(image: np.ndarray, index: int) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, CHANNELS) or not image.size:
        raise UserError(
            f"image {index + 1} is {image.dtype} {list(image.shape)}: give uint8 [height, width, channels] with 1 "
            "channel for grey or 3 for colour"
        )
    return image
