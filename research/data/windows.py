"""Square windows of images of any size, with their masks: random ones to train on, and those that cover an image."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from research.data.plans import Length
from research.data.randomness import generator
from research.data.rows import Rows
from research.data.transforms.geometry import IGNORED, Augmentation, Example, cropped, flipped, resized, turned


class Window(NamedTuple):
    """A window's example, and its upper left corner in the image."""

    owner: int
    top: int
    left: int


@dataclasses.dataclass(frozen=True)
class RandomWindows(Rows):
    """One window of each image, another in every epoch. A batch holds `image`, uint8 [batch, size, size, channels], and
    `mask`, uint8 [batch, size, size], IGNORED beside the image, which is black there.

    scale: range of the factor by which the image is enlarged first, drawn evenly from its logarithm. turns: turned by a
    quarter up to three times and mirrored, each of the eight equally often. augmentation: applied to the window.
    foreground: probability that a window is placed by `around_foreground`.
    """

    examples: Sequence[Mapping[str, Any]]
    size: int
    scale: tuple[float, float]
    turns: bool
    augmentation: Augmentation
    seed: int
    foreground: float = 0.0

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, indices: np.ndarray, epochs: np.ndarray, length: Length | None) -> dict[str, np.ndarray]:
        windows = [self._window(int(index), int(epoch)) for index, epoch in zip(indices, epochs, strict=True)]
        return {name: np.stack([window[name] for window in windows]) for name in ("image", "mask")}

    def _window(self, index: int, epoch: int) -> Example:
        example = {name: self.examples[index][name] for name in ("image", "mask")}
        random = generator(self.seed, epoch, index, "window")
        grey = example["image"].shape[-1] == 1
        low, high = self.scale
        side = max(round(self.size / math.exp(random.uniform(math.log(low), math.log(high)))), 1)
        spaces = [whole - side for whole in example["mask"].shape]  # less than 0 where the image is smaller
        top, left = (int(random.integers(min(space, 0), max(space, 0) + 1)) for space in spaces)
        if self.foreground:
            chance = generator(self.seed, epoch, index, "foreground")
            if chance.random() < self.foreground:
                top, left = around_foreground(example["mask"], side, chance) or (top, left)
        picture = Image.fromarray(example["image"].squeeze(-1) if grey else np.ascontiguousarray(example["image"]))
        example = cropped({**example, "image": picture}, left, top, side, side)
        if side != self.size:
            size = self.size, self.size
            example = resized(example, (0, 0, side, side), size, "bilinear", "L" if grey else "RGB")
        example["image"] = np.asarray(example["image"]).reshape(self.size, self.size, -1)
        if self.turns:
            turn = int(random.integers(8))
            example = turned(flipped(example) if turn >= 4 else example, turn % 4)
        return self.augmentation(example, generator(self.seed, epoch, index, "affine"))


def around_foreground(mask: np.ndarray, side: int, random: np.random.Generator) -> tuple[int, int] | None:
    """The upper left corner of a window with a pixel of a class other than 0 in its middle, or as near to it as the
    image allows; None where the mask has no such class.

    Of the classes that are there each is drawn equally often, and then each of its pixels (nnU-Net, Isensee et al.
    2021).
    """
    classes = [label for label in np.unique(mask) if label not in (0, IGNORED)]
    if not classes:
        return None
    places = np.flatnonzero(mask == classes[int(random.integers(len(classes)))])
    pixel = np.unravel_index(places[int(random.integers(len(places)))], mask.shape)
    spaces = [whole - side for whole in mask.shape]
    top, left = (
        min(max(int(place) - side // 2, min(space, 0)), max(space, 0))
        for place, space in zip(pixel, spaces, strict=True)
    )
    return top, left


@dataclasses.dataclass(frozen=True)
class CoveringWindows(Rows):
    """Windows that cover each image, row by row. A batch is that of `RandomWindows`; of questions it has no `mask`.

    overlap: of neighbouring windows, as a fraction of their size, at least. What several windows show counts in the
    first of them alone: in the masks of the others it is IGNORED.
    """

    examples: Sequence[Mapping[str, Any]]
    size: int
    overlap: float
    masks: bool

    @functools.cached_property
    def windows(self) -> list[Window]:
        """All windows of all images."""
        found = []
        for owner in range(len(self.examples)):
            height, width = self._size(owner)
            tops, lefts = (starts(side, self.size, self.overlap) for side in (height, width))
            found += [Window(owner, top, left) for top in tops for left in lefts]
        return found

    def _size(self, index: int) -> tuple[int, int]:
        if hasattr(self.examples, "image_size"):
            return self.examples.image_size(index)
        return self.examples[index]["image"].shape[:2]

    def __len__(self) -> int:
        return len(self.windows)

    def owners(self) -> np.ndarray:
        return np.array([window.owner for window in self.windows], np.int64)

    def batch(self, indices: np.ndarray, epochs: np.ndarray, length: Length | None) -> dict[str, np.ndarray]:
        windows = [self.windows[int(index)] for index in indices]
        examples = {owner: self.examples[owner] for owner in dict.fromkeys(window.owner for window in windows)}
        batch = {"image": np.stack([self._part(examples[w.owner]["image"], w.top, w.left, 0) for w in windows])}
        if self.masks:
            batch["mask"] = np.stack([self._own_mask(examples[window.owner]["mask"], window) for window in windows])
        return batch

    def _own_mask(self, mask: np.ndarray, window: Window) -> np.ndarray:
        """The window's part of a mask, without what windows above it and left of it show."""
        part = self._part(mask, window.top, window.left, IGNORED)
        for axis, start in enumerate((window.top, window.left)):
            before = [other for other in starts(mask.shape[axis], self.size, self.overlap) if other < start]
            seen = before[-1] + self.size - start if before else 0
            part[(slice(None),) * axis + (slice(0, max(seen, 0)),)] = IGNORED
        return part

    def _part(self, array: np.ndarray, top: int, left: int, fill: int) -> np.ndarray:
        found = array[top : top + self.size, left : left + self.size]
        whole = np.full((self.size, self.size, *array.shape[2:]), fill, array.dtype)
        whole[: found.shape[0], : found.shape[1]] = found
        return whole


def starts(length: int, size: int, overlap: float) -> list[int]:
    """Where windows of this size begin on an axis: evenly spaced, the last one ends where the axis does.

    As in nnU-Net (Isensee et al. 2021): a step is (1 - overlap) · size at most.
    """
    space = max(length - size, 0)
    count = math.ceil(space / max((1 - overlap) * size, 1)) + 1
    return [round(space * number / max(count - 1, 1)) for number in range(count)]


@functools.lru_cache(maxsize=8)
def gaussian(size: int) -> np.ndarray:
    """How much each pixel of a window counts, float32 [size, size]: less towards its edges, where little is seen.

    As in nnU-Net, a normal density whose deviation is an eighth of the size, 1 in the middle.
    """
    along = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / (size / 8)) ** 2)
    return np.outer(along, along).astype(np.float32)


def joined(parts: Sequence[np.ndarray], windows: Sequence[Window], shape: tuple[int, int]) -> np.ndarray:
    """Numbers for the pixels of an image, float32 [height, width, channels], from those of its windows.

    parts: [size, size, channels] each. Where windows overlap it is their mean, weighted by `gaussian`.
    """
    size, channels = parts[0].shape[1:]
    weights = gaussian(size)[..., None]
    total, weight = np.zeros((*shape, channels), np.float32), np.zeros((*shape, 1), np.float32)
    for part, (_, top, left) in zip(parts, windows, strict=True):
        here = slice(top, top + size), slice(left, left + size)
        height, width = total[here].shape[:2]
        total[here] += (np.asarray(part, np.float32) * weights)[:height, :width]
        weight[here] += weights[:height, :width]
    return total / weight
