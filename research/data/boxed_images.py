"""Images of any size, with boxes, resized to fit a square."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from research.data.plans import Length
from research.data.randomness import generator
from research.data.rows import Rows
from research.data.transforms.geometry import Augmentation, Example, resized
from research.errors import UserError

NOTHING = -1
"""The class of a place in a batch that has no box."""


@dataclasses.dataclass(frozen=True)
class FittedImages(Rows):
    """Each image as large as a square allows, its shape kept, in the square's upper left corner; the rest is black.

    short_side: pixels that its shorter side has at most, where that is less than the square allows.

    A batch holds `image`, uint8 [batch, size, size, channels]; `sizes`, int32 [batch, 2], height and width of what the
    image fills; `boxes`, float32 [batch, max_boxes, 4], left, top, right, bottom in pixels of the square; and
    `objects`, int32 [batch, max_boxes], their classes, NOTHING behind the last one. Boxes of `crowd` are left out.
    """

    examples: Sequence[Mapping[str, Any]]
    size: int
    max_boxes: int
    short_side: int | None = dataclasses.field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, indices: np.ndarray, epochs: np.ndarray, length: Length | None) -> dict[str, np.ndarray]:
        pairs = zip(indices.tolist(), epochs.tolist(), strict=True)
        rows = [self._row(self._fitted(index, epoch), index) for index, epoch in pairs]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _example(self, index: int) -> Example:
        example = self.examples[index]
        boxes, objects = example["boxes"], example["objects"]
        wanted = ~np.asarray(example.get("crowd", np.zeros(len(objects), bool)), bool)
        return {"image": example["image"], "boxes": boxes[wanted], "objects": objects[wanted]}

    def _fitted(self, index: int, epoch: int) -> Example:
        example = self._example(index)
        height, width = example["image"].shape[:2]
        return fitted(example, (0, 0, width, height), self.size, self.short_side)

    def _row(self, example: Example, index: int) -> dict[str, np.ndarray]:
        boxes, objects, image = example["boxes"], example["objects"], example["image"]
        seen = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        boxes, objects = boxes[seen], objects[seen]
        if len(boxes) > self.max_boxes:
            raise too_many(index, len(boxes), self.max_boxes)
        row = {
            "image": np.zeros((self.size, self.size, image.shape[-1]), np.uint8),
            "sizes": np.array(image.shape[:2], np.int32),
            "boxes": np.zeros((self.max_boxes, 4), np.float32),
            "objects": np.full(self.max_boxes, NOTHING, np.int32),
        }
        row["image"][: image.shape[0], : image.shape[1]] = image
        row["boxes"][: len(boxes)], row["objects"][: len(boxes)] = boxes, objects
        return row


@dataclasses.dataclass(frozen=True)
class RandomlyFitted(FittedImages):
    """The same for training: a part of the image, at a random size, another in every epoch. Boxes are cut at its edges.

    scale: the least size, as a fraction of the one that fits the square, drawn evenly. crop: in half of the cases each
    side is cut to a fraction of it, this one at least, drawn evenly. augmentation: applied to what is left.
    """

    scale: float
    crop: float
    augmentation: Augmentation
    seed: int

    def _fitted(self, index: int, epoch: int) -> Example:
        example, random = self._example(index), generator(self.seed, epoch, index, "boxes")
        height, width = example["image"].shape[:2]
        left, top, right, bottom = 0, 0, width, height
        if random.random() < 0.5:
            parts = random.uniform(self.crop, 1, 2)
            across, down = (max(round(side * part), 1) for side, part in zip((width, height), parts, strict=True))
            left, top = int(random.integers(width - across + 1)), int(random.integers(height - down + 1))
            right, bottom = left + across, top + down
        scale = random.uniform(self.scale, 1)
        size = max(round(self.size * scale), 1)
        short_side = self.short_side and max(round(self.short_side * scale), 1)
        example = fitted(example, (left, top, right, bottom), size, short_side)
        return self.augmentation(example, generator(self.seed, epoch, index, "affine"))


@dataclasses.dataclass(frozen=True)
class FittedQuestions(FittedImages):
    """The same without answers: `image` and `sizes`."""

    def _example(self, index: int) -> Example:
        none = {"boxes": np.zeros((0, 4), np.float32), "objects": np.zeros(0, np.int32)}
        return {"image": self.examples[index]["image"], **none}

    def _row(self, example: Example, index: int) -> dict[str, np.ndarray]:
        row = super()._row(example, index)
        return {"image": row["image"], "sizes": row["sizes"]}


def fitted(example: Example, box: tuple[int, int, int, int], size: int, short_side: int | None = None) -> Example:
    """The box of an example, whose image is an array, with its longer side resized to `size`, or its shorter one to
    `short_side` where that makes it smaller."""
    image = example["image"]
    width, height = box[2] - box[0], box[3] - box[1]
    shape = fitting(height, width, size, short_side)
    if box == (0, 0, image.shape[1], image.shape[0]) and shape == image.shape[:2]:
        return example
    grey = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if grey else np.ascontiguousarray(image))
    example = resized({**example, "image": picture}, box, shape, "bilinear", "L" if grey else "RGB")
    return {**example, "image": np.asarray(example["image"]).reshape(*shape, -1)}


def fitting(height: int, width: int, size: int, short_side: int | None = None) -> tuple[int, int]:
    """Height and width of an image whose longer side becomes `size`, or whose shorter one becomes `short_side` where
    that makes it smaller: then the longer one is rounded down, as by DETR's published code."""
    if short_side is None:
        factor = size / max(height, width)
        return max(round(height * factor), 1), max(round(width * factor), 1)
    short, long = sorted((height, width))
    exact = min(size * short / long, float(short_side))
    sides = max(round(exact), 1), max(int(exact * long / short), 1)
    if sides[0] == short:
        return height, width
    return sides if height <= width else sides[::-1]


def too_many(index: int, count: int, most: int) -> UserError:
    """The error of an image with more boxes than a batch has places for."""
    return UserError(f"image {index + 1} has {count} boxes, and task.max_boxes is {most}: use a larger one")
