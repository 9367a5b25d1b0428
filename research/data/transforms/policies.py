"""What AutoAugment and RandAugment do to an RGB image: fifteen operations and the published policies."""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from research.data.transforms.geometry import Example, Inverse, moved

GREY = (128, 128, 128)
"""What comes into view from outside."""

MAXIMUM = 10
"""Magnitudes go from 0 to this."""


def auto_contrast(image: Image.Image, _: float = 0) -> Image.Image:
    """Stretches every channel to 0..255."""
    tables = []  # in whole numbers: those of Pillow, also for brightness and contrast, are rounded down by one at times
    for count in np.array(image.histogram()).reshape(-1, 256):
        low, high = np.flatnonzero(count)[[0, -1]]
        tables.append((np.arange(256) - low) * 255 // (high - low) if high > low else np.arange(256))
    return _point(image, np.stack(tables))


def equalize(image: Image.Image, _: float = 0) -> Image.Image:
    """Makes the histogram of every channel as flat as a table of values can; a channel of one value stays."""
    return ImageOps.equalize(image)


def invert(image: Image.Image, _: float = 0) -> Image.Image:
    """255 minus every pixel."""
    return ImageOps.invert(image)


def rotate(image: Image.Image, degrees: float) -> Image.Image:
    """Counter-clockwise, about the centre."""
    return image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=GREY)


def posterize(image: Image.Image, bits: float) -> Image.Image:
    """Keeps the highest bits, 0 to 8 of them."""
    return _point(image, np.arange(256) & ~(0xFF >> int(bits)))


def solarize(image: Image.Image, threshold: float) -> Image.Image:
    """Inverts all values from the threshold on."""
    return ImageOps.solarize(image, math.ceil(threshold))


def solarize_add(image: Image.Image, addition: float) -> Image.Image:
    """Adds to all values below 128."""
    values = np.arange(256)
    return _point(image, np.where(values < 128, values + int(addition), values))


def color(image: Image.Image, factor: float) -> Image.Image:
    """0 gives greys, 1 the image, more than 1 stronger colours."""
    return ImageEnhance.Color(image).enhance(factor)


def contrast(image: Image.Image, factor: float) -> Image.Image:
    """0 gives the mean grey everywhere, 1 the image."""
    counts = np.array(image.convert("L").histogram())
    mean = int(counts @ np.arange(256) / counts.sum() + 0.5)
    return _point(image, mean + (np.arange(256) - mean) * factor)


def brightness(image: Image.Image, factor: float) -> Image.Image:
    """0 gives black, 1 the image."""
    return _point(image, np.arange(256) * factor)


def sharpness(image: Image.Image, factor: float) -> Image.Image:
    """0 gives a smoothed image, 1 the image, 2 what the smoothing takes away once more."""
    return ImageEnhance.Sharpness(image).enhance(factor)


def shear_x(image: Image.Image, factor: float) -> Image.Image:
    """Moves every row to the left by `factor` times its height below the top."""
    return Image.fromarray(_leant(np.asarray(image), factor))


def shear_y(image: Image.Image, factor: float) -> Image.Image:
    """Moves every column up by `factor` times its distance from the left."""
    turned = image.transpose(Image.Transpose.TRANSPOSE)
    return shear_x(turned, factor).transpose(Image.Transpose.TRANSPOSE)


def translate_x(image: Image.Image, share: float) -> Image.Image:
    """Moves the image to the left by a share of its width, in whole pixels."""
    return _move(image, round(share * image.width), 0)


def translate_y(image: Image.Image, share: float) -> Image.Image:
    """Moves the image up by a share of its height, in whole pixels."""
    return _move(image, 0, round(share * image.height))


OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Invert": invert,
    "Rotate": rotate,
    "Posterize": posterize,
    "Solarize": solarize,
    "SolarizeAdd": solarize_add,
    "Color": color,
    "Contrast": contrast,
    "Brightness": brightness,
    "Sharpness": sharpness,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
}
NAMES = tuple(OPERATIONS)
EITHER_WAY = {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3, "TranslateX": 0.45, "TranslateY": 0.45}
"""The operations that move the image, and their largest arguments."""
ENHANCEMENTS = ("Color", "Contrast", "Brightness", "Sharpness")

Policy = tuple[tuple[tuple[str, float, int], ...], ...]

CIFAR: Policy = (
    (("Invert", 0.1, 7), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 8), ("Equalize", 0.9, 2)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 5), ("Equalize", 0.5, 1)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 7), ("AutoContrast", 0.4, 8)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 3)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 8), ("Equalize", 0.6, 4)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 6)),
    (("AutoContrast", 0.8, 4), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 3)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 2), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 8), ("Invert", 0.1, 3)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 1)),
)
"""AutoAugment for CIFAR-10 (Cubuk et al. 2019, appendix): 25 pairs of (operation, probability, magnitude)."""

IMAGENET: Policy = (
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
    (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 4), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 7)),
    (("Posterize", 0.8, 5), ("Equalize", 1.0, 2)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 8), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 2)),
    (("Equalize", 0.0, 7), ("Equalize", 0.8, 8)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 8)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 9)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 3)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
)
"""AutoAugment for ImageNet (Cubuk et al. 2019, appendix)."""


def increasing(name: str, magnitude: float, sign: float) -> float:
    """The argument of an operation, 0 the mildest magnitude; sign, 1 or -1, chooses the side where there are two."""
    share = magnitude / MAXIMUM
    if name in EITHER_WAY:
        return sign * share * EITHER_WAY[name]
    if name in ENHANCEMENTS:
        return 1 + sign * share * 0.9
    return {"Posterize": 4 - int(share * 4), "Solarize": 256 - int(share * 256), "SolarizeAdd": int(share * 110)}.get(
        name, 0
    )


def published(name: str, magnitude: float, sign: float) -> float:
    """The same in the ranges of the AutoAugment paper (table 6), where 10 is the mildest Posterize and Solarize."""
    share = magnitude / MAXIMUM
    if name in ENHANCEMENTS:
        return 0.1 + share * 1.8
    if name in ("Posterize", "Solarize"):
        return 4 + int(share * 4) if name == "Posterize" else int(share * 256)
    return increasing(name, magnitude, sign)


def draw_operations(
    random: np.random.Generator, magnitude: float, deviation: float, count: int
) -> list[tuple[str, float] | None]:
    """Names and arguments of RandAugment's operations; None for one that is left out."""
    drawn: list[tuple[str, float] | None] = []
    for choice, left_out, side, noise in zip(
        random.integers(len(NAMES), size=count), *random.random((2, count)), random.normal(size=count), strict=True
    ):
        level = min(max(magnitude + deviation * noise, 0.0), MAXIMUM)
        name = NAMES[choice]
        drawn.append(None if left_out < 0.5 else (name, increasing(name, level, 1 if side < 0.5 else -1)))
    return drawn


def rand_augment(
    example: Example, random: np.random.Generator, magnitude: float, deviation: float, count: int
) -> Example:
    """`count` operations drawn with replacement, each left out in half of the cases (Cubuk et al. 2020).

    Ranges and halving are those of timm's `rand-m{magnitude}-mstd{deviation}-inc1`: the magnitude of every operation
    is normal about `magnitude`, within 0 to 10. The example's image is one of Pillow; what is marked in it moves along.
    """
    for operation in draw_operations(random, magnitude, deviation, count):
        if operation:
            example = changed(example, *operation)
    return example


def auto_augment(example: Example, random: np.random.Generator, policy: Policy) -> Example:
    """One of the rows of `policy`, its operations each with its own probability."""
    row = policy[random.integers(len(policy))]
    for (name, probability, magnitude), draw, side in zip(row, *random.random((2, len(row))), strict=True):
        if draw < probability:
            example = changed(example, name, published(name, magnitude, 1 if side < 0.5 else -1))
    return example


def changed(example: Example, name: str, argument: float) -> Example:
    """The example after one operation; those that move the image move what is marked in it, too."""
    image = OPERATIONS[name](example["image"], argument)
    if name not in EITHER_WAY:
        return {**example, "image": image}
    return moved(example, image, _inverse(name, argument, *image.size))


def _inverse(name: str, argument: float, width: int, height: int) -> Inverse:
    """How one of the operations that move an image does so."""
    match name:
        case "Rotate":
            cos, sin, x, y = math.cos(math.radians(argument)), math.sin(math.radians(argument)), width / 2, height / 2
            return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y
        case "ShearX":
            return 1, argument, 0, 0, 1, 0
        case "ShearY":
            return 1, 0, 0, argument, 1, 0
        case "TranslateX":
            return 1, 0, round(argument * width), 0, 1, 0
    return 1, 0, 0, 0, 1, round(argument * height)


def _point(image: Image.Image, table: np.ndarray) -> Image.Image:
    """Every value replaced by that of a table, [256] for all or [channels, 256] for each channel; cut to 0..255."""
    table = np.broadcast_to(np.clip(table, 0, 255).astype(np.uint8), (len(image.getbands()), 256))
    return image.point(table.ravel().tolist())


def _leant(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Each row of uint8 [height, width, channels] moved left by `factor` times its centre's height, interpolated.

    As `Image.transform` does it, bilinear, in a fifth of the time: a row has one shift and one pair of weights.
    """
    height, width, channels = pixels.shape
    shifts = factor * (np.arange(height) + 0.5)
    whole = np.floor(shifts).astype(int)
    weights = np.rint((shifts - whole) * 256).astype(np.uint16)[:, None]
    margin = int(np.abs(whole).max()) + 1
    padded = np.full((height, width + 2 * margin, channels), GREY[0], np.uint8)
    padded[:, margin : margin + width] = pixels
    windows = np.lib.stride_tricks.sliding_window_view(padded.reshape(height, -1), (width + 1) * channels, axis=1)
    rows = windows[np.arange(height), (margin + whole) * channels]
    mixed = rows[:, :-channels] * (256 - weights)
    mixed += rows[:, channels:] * weights
    mixed += 128
    mixed >>= 8
    return mixed.astype(np.uint8).reshape(pixels.shape)


def _move(image: Image.Image, left: int, up: int) -> Image.Image:
    moved = Image.new(image.mode, image.size, GREY)
    moved.paste(image, (-left, -up))
    return moved
