"""Geometry: an example's image moves, and what is marked in it moves along.

A transform is a callable (example, random) -> example: it takes a dict and a generator and gives a new dict. Entries
that it knows nothing of stay as they are. What moves together:

    image       uint8 [height, width, channels], or an image of Pillow
    boxes       float32 [n, 4]: left, top, right, bottom in pixels
    mask        [height, width]: an integer label for each pixel
    keypoints   float32 [..., 2 or 3]: x and y in pixels and, where there is a third number, visibility

Positions count from the image's upper left corner: the first pixel reaches from 0 to 1, its centre is 0.5.
"""

import dataclasses
import math
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image, ImageOps

from research.ranges import Degrees, Fraction, Range, Rate

IGNORED = 255
"""The label in a mask of what comes into view from outside the image."""
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
CORNERS = [[0, 1], [2, 1], [2, 3], [0, 3]]
"""Where x and y of each corner stand in a box."""

Example = dict[str, Any]
Inverse = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f), as Pillow takes it: the point (x, y) of the new image shows what was at
(a x + b y + c, d x + e y + f) in the old one."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random affine changes of a training image, each drawn evenly from its range.

    For scans and drawings, grey or in colour, whose content may be turned and bent a little but not cropped; for
    photographs there is `research.data.transforms.photo.PhotoAugmentation`. Where a task has both, this one comes
    second.

    rotate: degrees either way. shift: fraction of the side either way. zoom: 0.1 scales by 0.9 to 1.1.
    shear: degrees either way. flip: mirror left and right in half of the cases.
    """

    rotate: Degrees = 0.0
    shift: Fraction = 0.0
    zoom: Rate = 0.0
    shear: Annotated[float, Range(0, 90, below=True)] = 0.0
    flip: bool = False

    def __call__(self, example: Example, random: np.random.Generator) -> Example:
        """The example with an image, uint8 [height, width, channels], of the same shape.

        What comes into view from outside is black.
        """
        angle, shift_y, shift_x, zoom, shear, flip = random.uniform(-1, 1, 6)
        if self.flip and flip < 0:
            example = flipped(example)
        if not (self.rotate or self.shift or self.zoom or self.shear):
            return example
        image = example["image"]
        height, width = image.shape[:2]
        angle, shear = math.radians(self.rotate * angle), math.radians(self.shear * shear)
        scale = 1 / (1 + self.zoom * zoom)
        cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
        a, b, d, e = cos, cos * math.tan(shear) - sin, sin, sin * math.tan(shear) + cos
        x, y = width / 2, height / 2  # the changes are about the centre
        c, f = x - a * x - b * y + self.shift * shift_x * width, y - d * x - e * y + self.shift * shift_y * height
        inverse = (a, b, c, d, e, f)
        grey = image.shape[-1] == 1
        picture = Image.fromarray(image[..., 0] if grey else np.ascontiguousarray(image))
        picture = picture.transform((width, height), Image.Transform.AFFINE, inverse, Image.Resampling.BICUBIC)
        return moved(example, np.asarray(picture, np.uint8).reshape(image.shape), inverse)


def moved(example: Example, image: np.ndarray | Image.Image, inverse: Inverse) -> Example:
    """The example with `image` in the place of its own, which was moved to it as `inverse` says; marks move likewise.

    A box becomes the smallest upright one around its moved corners, cut at the image's edges: one that has left the
    image has no area, and it stays in its place, so that boxes and their labels belong together. A keypoint that has
    left it keeps its position, and its visibility becomes 0. A mask takes the label nearest to each pixel's centre,
    IGNORED outside.
    """
    height, width = image.shape[:2] if isinstance(image, np.ndarray) else (image.height, image.width)
    result = {**example, "image": image}
    (a, b, c), (d, e, f) = inverse[:3], inverse[3:]
    if "mask" in example:
        x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
        columns, rows = (np.floor(along).astype(np.int64) for along in (a * x + b * y + c, d * x + e * y + f))
        mask = example["mask"]
        inside = (rows >= 0) & (rows < mask.shape[0]) & (columns >= 0) & (columns < mask.shape[1])
        labels = mask[np.where(inside, rows, 0), np.where(inside, columns, 0)]
        result["mask"] = np.where(inside, labels, IGNORED).astype(mask.dtype)
    if "boxes" in example:
        corners = _placed(example["boxes"][:, CORNERS], inverse)
        extent = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        result["boxes"] = np.clip(extent, 0, (width, height, width, height)).astype(np.float32)
    if "keypoints" in example:
        points, rest = np.split(example["keypoints"], [2], axis=-1)
        points = _placed(points, inverse)
        inside = ((points >= 0) & (points <= (width, height))).all(axis=-1, keepdims=True)
        result["keypoints"] = np.concatenate([points, np.where(inside, rest, 0)], axis=-1).astype(np.float32)
    return result


def _placed(points: np.ndarray, inverse: Inverse) -> np.ndarray:
    """Where points, [..., 2], of the old image are in the new one, float64."""
    a, b, c, d, e, f = inverse
    return (points - np.array([c, f])) @ np.linalg.inv([[a, b], [d, e]]).T


def flipped(example: Example) -> Example:
    """Mirrored left and right. Keypoints stay in their order: whoever names them left and right swaps them."""
    image = example["image"]
    if isinstance(image, np.ndarray):
        return moved(example, image[:, ::-1], (-1, 0, image.shape[1], 0, 1, 0))
    return moved(example, ImageOps.mirror(image), (-1, 0, image.width, 0, 1, 0))


def cropped(example: Example, left: int, top: int, width: int, height: int) -> Example:
    """A part of an example whose image is one of Pillow; what of it lies outside the image is black."""
    image = example["image"].crop((left, top, left + width, top + height))
    return moved(example, image, (1, 0, left, 0, 1, top))


def turned(example: Example, quarters: int) -> Example:
    """Turned to the left by this number of quarters; the image is an array."""
    for _ in range(quarters % 4):
        image = example["image"]
        example = moved(example, np.rot90(image), (0, -1, image.shape[1], 1, 0, 0))
    return example


def resized(
    example: Example,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    interpolation: str,
    mode: Literal["RGB", "L"] = "RGB",
) -> Example:
    """The box (left, top, right, bottom) of an image of Pillow as an image of the size (height, width) and this mode.

    A JPEG file that has been opened but not decoded yet is decoded at half its size or less where that is enough.
    """
    picture, (height, width), (left, top, right, bottom) = example["image"], size, box
    inverse = ((right - left) / width, 0, left, 0, (bottom - top) / height, top)
    surplus = int(min((right - left) / width, (bottom - top) / height))
    if surplus > 1:
        # Pillow chooses 1/2, 1/4 or 1/8, no less than asked for; None for what is no JPEG or already decoded.
        whole = picture.width
        drafted = picture.draft("RGB", (max(whole // surplus, 1), max(picture.height // surplus, 1)))
        if drafted is not None:
            ratio = drafted[1][2] / whole
            box = (left * ratio, top * ratio, right * ratio, bottom * ratio)
    if picture.mode != mode:
        picture = picture.convert(mode)
    if picture.size != (width, height) or box != (0, 0, width, height):
        picture = picture.resize((width, height), RESAMPLING[interpolation], box)
    return moved(example, picture, inverse)
