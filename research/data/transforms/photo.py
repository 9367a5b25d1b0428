"""Crops and random changes of photographs: what a training image and an evaluation image are made of."""

import dataclasses
import math
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image

from research.data.transforms.geometry import Example, cropped, flipped, resized
from research.data.transforms.policies import (
    CIFAR,
    IMAGENET,
    MAXIMUM,
    auto_augment,
    brightness,
    color,
    contrast,
    rand_augment,
)
from research.errors import UserError
from research.ranges import Fraction, NotNegative, Pixels, Range, Share

POLICIES = {"none": None, "randaugment": None, "autoaugment_cifar": CIFAR, "autoaugment_imagenet": IMAGENET}
ASPECTS = (3 / 4, 4 / 3)
"""Width over height of a random crop."""
PADDING = 4
ERASED_SHARE, ERASED_ASPECTS = (0.02, 1 / 3), (0.3, 1 / 0.3)
ATTEMPTS = 10


@dataclasses.dataclass(frozen=True)
class PhotoAugmentation:
    """A training image of size x size pixels: crop, flip, policy, colours, erasing, in this order.

    For photographs in colour, of any size. Small scans and drawings that have one size already, and grey ones, are
    better turned and bent by `research.data.transforms.geometry.Augmentation`.

    crop: "random_resized" takes a share of the area within `scale`, of an aspect ratio of 3/4 to 4/3, and resizes it;
    "pad" resizes, adds 4 black pixels on every side and crops; "none" resizes, whatever the shape. flip: mirror left
    and right in half of the cases. policy: RandAugment (Cubuk et al. 2020) applies `num_ops` operations of
    `magnitude` (0 to 10, normal with magnitude_std) as timm's rand-m9-mstd0.5-inc1 does; AutoAugment (Cubuk et al.
    2019) follows its published tables. color_jitter: brightness, contrast and saturation, in random order, each by
    a factor within 1 - color_jitter to 1 + color_jitter. erasing: the probability that a rectangle of 2 % to a third
    of the area becomes noise (Zhong et al. 2020). crop_fraction: where training crops at random, evaluation resizes the
    short side to size / crop_fraction and takes the middle (timm's `crop_pct`). interpolation: of all resizing.
    """

    size: Pixels = 224
    crop: Literal["none", "random_resized", "pad"] = "random_resized"
    scale: tuple[Share, Share] = (0.08, 1.0)
    flip: bool = True
    policy: Literal["none", "randaugment", "autoaugment_cifar", "autoaugment_imagenet"] = "none"
    magnitude: Annotated[int, Range(0, MAXIMUM)] = 9
    num_ops: Annotated[int, Range(1, 100)] = 2
    magnitude_std: NotNegative = 0.5
    color_jitter: Fraction = 0.0
    erasing: Fraction = 0.0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop_fraction: Share = 0.875

    def __post_init__(self):
        if self.scale[0] > self.scale[1]:
            raise UserError(f"scale {self.scale} is not a range of fractions of the area: use (least, most), 0 to 1")

    def __call__(self, example: Example, random: np.random.Generator) -> Example:
        """The example with an image, uint8 [size, size, 3]; what is marked in it moves along.

        The image given is uint8 [height, width, 3], or of Pillow. A JPEG file that Pillow has opened but not decoded
        yet is decoded at half its size or less where the crop is as much larger than needed.
        """
        example, size = _opened(example), (self.size, self.size)
        width, height = example["image"].size
        random_box = self.crop == "random_resized"
        box = crop_box(width, height, self.scale, random) if random_box else (0, 0, width, height)
        example = resized(example, box, size, self.interpolation)
        if self.crop == "pad":
            left, top = (int(offset) for offset in random.integers(-PADDING, PADDING + 1, size=2))
            example = cropped(example, left, top, self.size, self.size)
        if self.flip and random.random() < 0.5:
            example = flipped(example)
        if self.policy == "randaugment":
            example = rand_augment(example, random, self.magnitude, self.magnitude_std, self.num_ops)
        elif self.policy != "none":
            example = auto_augment(example, random, POLICIES[self.policy])
        picture = example["image"]
        if self.color_jitter:
            factors = random.uniform(1 - self.color_jitter, 1 + self.color_jitter, 3)
            for choice in random.permutation(3):
                picture = (brightness, contrast, color)[choice](picture, factors[choice])
        pixels = np.asarray(picture)
        if random.random() < self.erasing:
            pixels = erased(pixels, random)
        return {**example, "image": pixels}

    @property
    def evaluated(self) -> dict[str, Any]:
        """What `evaluate` does, as plain values."""
        fields = {"size": self.size, "fraction": self.crop_fraction, "method": self.interpolation}
        return {"middle": self.crop == "random_resized", **fields}

    def evaluate(self, example: Example) -> Example:
        """What evaluation sees: the middle of the image where training crops at random, otherwise all of it."""
        example = _opened(example)
        width, height = example["image"].size
        middle = self.crop == "random_resized"
        box = centre_box(width, height, self.size, self.crop_fraction) if middle else (0, 0, width, height)
        example = resized(example, box, (self.size, self.size), self.interpolation)
        return {**example, "image": np.asarray(example["image"])}


def centre_box(width: int, height: int, size: int, crop_fraction: float) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the part of an image that makes its evaluation image of size x size pixels.

    It is the part that is left when the short side is resized to size / crop_fraction, in whole pixels, and the middle
    is cut out then.
    """
    sides = [math.floor(size / crop_fraction) * side // min(width, height) for side in (width, height)]
    starts = [round((side - size) / 2) for side in sides]
    left, top = (start * whole / side for start, whole, side in zip(starts, (width, height), sides, strict=True))
    right, bottom = (
        (start + size) * whole / side for start, whole, side in zip(starts, (width, height), sides, strict=True)
    )
    return left, top, right, bottom


def crop_box(
    width: int, height: int, scale: tuple[float, float], random: np.random.Generator
) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a random crop with a share of the area within `scale`.

    Of crops that do not fit into the image another is drawn; after ten of them the largest in the middle is taken.
    """
    low, high = (math.log(aspect) for aspect in ASPECTS)
    for _ in range(ATTEMPTS):
        area = random.uniform(*scale) * width * height
        aspect = math.exp(random.uniform(low, high))
        crop_width, crop_height = (max(round(math.sqrt(side)), 1) for side in (area * aspect, area / aspect))
        if crop_width <= width and crop_height <= height:
            left = int(random.integers(width - crop_width + 1))
            top = int(random.integers(height - crop_height + 1))
            return left, top, left + crop_width, top + crop_height
    crop_width = min(width, max(round(height * ASPECTS[1]), 1))
    crop_height = min(height, max(round(width / ASPECTS[0]), 1))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


def erased(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A copy in which a rectangle of 2 % to a third of the area is noise; where ten do not fit, none is."""
    rows, columns, channels = pixels.shape
    low, high = (math.log(aspect) for aspect in ERASED_ASPECTS)
    for _ in range(ATTEMPTS):
        area = random.uniform(*ERASED_SHARE) * rows * columns
        aspect = math.exp(random.uniform(low, high))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height < rows and width < columns:
            top, left = random.integers(rows - height + 1), random.integers(columns - width + 1)
            pixels = pixels.copy()
            noise = random.integers(0, 256, (height, width, channels), np.uint8)
            pixels[top : top + height, left : left + width] = noise
            break
    return pixels


def _opened(example: Example) -> Example:
    """The example with its image as one of Pillow."""
    image = example["image"]
    if isinstance(image, Image.Image):
        return example
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
        raise UserError(
            f"an image of {image.dtype} {list(image.shape)} cannot be augmented: give uint8 [height, width, 3], "
            "set data.channels to 3"
        )
    return {**example, "image": Image.fromarray(np.ascontiguousarray(image))}
