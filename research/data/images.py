"""Images as arrays, with random changes that are a pure function of (seed, epoch, index)."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from PIL import Image

from research.data.augmentation import PhotoAugmentation
from research.data.rows import Rows
from research.errors import UserError
from research.ranges import Degrees, Fraction, Range, Rate


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random affine changes of a training image, each drawn evenly from its range.

    For scans and drawings, grey or in colour, whose content may be turned and bent a little but not cropped; for
    photographs there is `research.data.augmentation.PhotoAugmentation`. Where a task has both, this one comes second.

    rotate: degrees either way. shift: fraction of the side either way. zoom: 0.1 scales by 0.9 to 1.1.
    shear: degrees either way. flip: mirror left and right in half of the cases.
    """

    rotate: Degrees = 0.0
    shift: Fraction = 0.0
    zoom: Rate = 0.0
    shear: Annotated[float, Range(0, 90, below=True)] = 0.0
    flip: bool = False

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """uint8 [height, width, channels] to the same shape; what comes into view from outside is black."""
        angle, shift_y, shift_x, zoom, shear, flip = random.uniform(-1, 1, 6)
        if self.flip and flip < 0:
            image = image[:, ::-1]
        if not (self.rotate or self.shift or self.zoom or self.shear):
            return image
        height, width = image.shape[:2]
        angle, shear = math.radians(self.rotate * angle), math.radians(self.shear * shear)
        scale = 1 / (1 + self.zoom * zoom)
        cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
        # The inverse map about the centre, output pixel to input pixel, as Pillow wants it.
        a, b, c, d = cos, cos * math.tan(shear) - sin, sin, sin * math.tan(shear) + cos
        x, y = width / 2, height / 2  # Pillow counts from the corner of the first pixel
        left, top = x - a * x - b * y + self.shift * shift_x * width, y - c * x - d * y + self.shift * shift_y * height
        picture = _to_pillow(image).transform(
            (width, height), Image.Transform.AFFINE, (a, b, left, c, d, top), Image.Resampling.BICUBIC
        )
        return np.asarray(picture, np.uint8).reshape(image.shape)


@dataclasses.dataclass(frozen=True)
class LabelledImages(Rows):
    """A batch holds `image`, uint8 [batch, height, width, channels], and `label`, int32 [batch].

    mixup: the parameter of the Beta distribution of `mix`, float32 [batch], the share of each image in its mixture with
    another (Zhang et al. 2018). cutmix: the same for `box`, int32 [batch, 4], the rows and columns (top, left, bottom,
    right) that are another's (Yun et al. 2019); `mix` is then the share of the area that is left. With both, an image
    is mixed or cut, each in half of the cases, and the box of one that is mixed is empty. 0 leaves them out.
    augmentation: None in evaluation. photo: cuts images of any size to its own, and changes them in training.
    """

    examples: Sequence[Mapping[str, Any]]
    augmentation: Augmentation | None
    seed: int
    mixup: float = 0.0
    photo: PhotoAugmentation | None = None
    cutmix: float = 0.0

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, indices: np.ndarray, epochs: np.ndarray, length: int | None) -> dict[str, np.ndarray]:
        examples = [self.examples[int(index)] for index in indices]
        images = [example["image"] for example in examples]
        if self.photo is not None:
            images = [self._photo(*drawn) for drawn in zip(images, epochs, indices, strict=True)]
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            raise UserError(f"images of different shapes {sorted(shapes)} in one batch: set data.size to resize them")
        mix = {}
        if self.augmentation is not None:
            keys = zip(epochs, indices, strict=True)
            randoms = [np.random.default_rng((self.seed, int(epoch), int(index))) for epoch, index in keys]
            images = [self.augmentation(image, random) for image, random in zip(images, randoms, strict=True)]
            mix = self._mix(randoms, images[0].shape[:2])
        labels = np.array([example.get("label", 0) for example in examples], np.int32)  # a question has none
        return {"image": np.stack(images), "label": labels, **mix}

    def _mix(self, randoms: Sequence[np.random.Generator], size: tuple[int, int]) -> dict[str, np.ndarray]:
        if not self.cutmix:
            if not self.mixup:
                return {}
            return {"mix": np.array([random.beta(self.mixup, self.mixup) for random in randoms], np.float32)}
        shares, boxes = [], []
        for random in randoms:
            if self.mixup and random.random() < 0.5:
                shares.append(random.beta(self.mixup, self.mixup))
                boxes.append((0, 0, 0, 0))
            else:
                top, left, bottom, right = cut_box(*size, random.beta(self.cutmix, self.cutmix), random)
                shares.append(1 - (bottom - top) * (right - left) / math.prod(size))
                boxes.append((top, left, bottom, right))
        return {"mix": np.array(shares, np.float32), "box": np.array(boxes, np.int32)}

    def _photo(self, image: np.ndarray, epoch: int, index: int) -> np.ndarray:
        if self.augmentation is None:
            return self.photo.evaluate(image)
        return self.photo(image, seed=self.seed, epoch=int(epoch), index=int(index))


def cut_box(height: int, width: int, share: float, random: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of a box of the image's shape and 1 - share of its area (Yun et al. 2019, section 3).

    Its centre is anywhere in the image; what of it lies outside is cut off.
    """
    ratio = math.sqrt(1 - share)
    sizes = int(height * ratio), int(width * ratio)
    starts = [int(random.integers(side)) - size // 2 for side, size in zip((height, width), sizes, strict=True)]
    ends = [start + size for start, size in zip(starts, sizes, strict=True)]
    return max(starts[0], 0), max(starts[1], 0), min(ends[0], height), min(ends[1], width)


def _to_pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else np.ascontiguousarray(image))
