"""Images as arrays, with random changes that are a pure function of (seed, epoch, index)."""

import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from research.data.augmentation import PhotoAugmentation
from research.errors import UserError


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random affine changes of a training image, each drawn evenly from its range.

    rotate: degrees either way. shift: fraction of the side either way. zoom: 0.1 scales by 0.9 to 1.1.
    shear: degrees either way. flip: mirror left and right in half of the cases.
    """

    rotate: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0
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
class LabelledImages:
    """A batch holds `image`, uint8 [batch, height, width, channels], and `label`, int32 [batch].

    mixup: the parameter of the Beta distribution of `mix`, float32 [batch], the share of each image in its mixture with
    another (Zhang et al. 2018); 0 leaves `mix` out. augmentation: None in evaluation. photo: cuts images of any size to
    its own, and changes them in training.
    """

    examples: Sequence[Mapping[str, Any]]
    augmentation: Augmentation | None
    seed: int
    mixup: float = 0.0
    photo: PhotoAugmentation | None = None

    def __len__(self) -> int:
        return len(self.examples)

    def lengths(self) -> None:
        return None

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
            if self.mixup:
                mix = {"mix": np.array([random.beta(self.mixup, self.mixup) for random in randoms], np.float32)}
        labels = np.array([example["label"] for example in examples], np.int32)
        return {"image": np.stack(images), "label": labels, **mix}

    def _photo(self, image: np.ndarray, epoch: int, index: int) -> np.ndarray:
        if self.augmentation is None:
            return self.photo.evaluate(image)
        return self.photo(image, seed=self.seed, epoch=int(epoch), index=int(index))


def decode_image(data: bytes, name: str, size: tuple[int, int] | None, channels: int) -> np.ndarray:
    """Pixels of an image file, uint8 [height, width, channels], resized to `size` (height, width) if given.

    channels: 1 or 3. Raises UserError, naming the file, for data that are no whole image.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image = image.convert("RGB" if channels == 3 else "L")
            if size is not None and image.size != size[::-1]:
                image = image.resize(size[::-1], Image.Resampling.BICUBIC)
            pixels = np.asarray(image)
    except Exception as error:  # Pillow's decoders raise anything from SyntaxError to struct.error
        raise UserError(f"{name} cannot be read as an image ({error}): repair or remove it") from error
    return pixels.reshape(*pixels.shape[:2], channels)


def _to_pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else np.ascontiguousarray(image))
