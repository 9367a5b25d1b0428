"""Image files as a viewer shows them: what a file says of its pixels is honoured, and what is not an image is refused.

Orientation and colour profiles are applied, transparency lies on white, deep images keep their shades, an animation
gives its first frame. Content alone decides which decoder reads a file, and only those of SIGNATURES ever do: others,
such as that of EPS, run programs.
"""

import contextlib
import functools
import io
import math
import stat
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms
from PIL.TiffImagePlugin import TiffImageFile

from research.errors import UserError

SIGNATURES = {
    "JPEG": (b"\xff\xd8\xff",),  # and MPO, several of them in one file, of which the first is shown
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "PPM": (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf"),
    "JPEG2000": (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"),
}
"""How files begin, by Pillow's names of their formats; WebP and AVIF say it a few bytes later."""
SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif",
    ".avifs", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx",
))  # fmt: skip
READ = "JPEG, PNG, GIF, BMP, TIFF, WebP, AVIF, PPM and JPEG 2000 are read"
AVIF_BRANDS = (b"avif", b"avis")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
PIXELS = 178_956_970
"""Of an image at most: 13377 squared, where Pillow too takes a file for an attack on the memory."""
LARGEST = 2**29
"""Bytes of a file at most."""
SIGNATURE_BYTES = 16
ORIENTATION = 0x0112
METADATA = {"exif", "xmp", "Raw profile type exif", "XML:com.adobe.xmp"}
"""Pillow's names of what may tell an orientation."""
TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation; from 5 on height and width are exchanged."""
BITS, PHOTOMETRIC, SUBFILE, SAMPLE_FORMAT = 258, 262, 254, 339  # tags of TIFF
GAMMA = 1 / 2.2
"""Of PNG files that mean sRGB."""
MASK_MODES = ("1", "L", "P", "I", "I;16", "I;16B")
"""Pillow's names of pixels that hold one whole number."""
COLOUR_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}

# Damaged metadata and large images, which are refused here by a lower limit or read all the same.
for _category in (UserWarning, Image.DecompressionBombWarning):
    warnings.filterwarnings("ignore", category=_category, module=r"PIL\.")


def image_format(start: bytes) -> str | None:
    """Pillow's name of the format of a file that begins with these bytes (SIGNATURE_BYTES do); None: it is not read."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[4:8] == b"ftyp":
        return "AVIF" if start[8:12] in AVIF_BRANDS else None
    return next((name for name, signatures in SIGNATURES.items() if start.startswith(signatures)), None)


def read_image_file(path: Path | str) -> bytes:
    """What a file holds. Raises UserError for one that is missing, too large, or not a file, which is never opened."""
    try:
        found = Path(path).stat()
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{shown(path)} is not a file: give an image file")
        if found.st_size > LARGEST:
            raise too_large(path, found.st_size)
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise UserError(f"{shown(path)} cannot be read ({short(error)}): give an image file") from error


def decode_image(data: bytes, name: str, size: tuple[int, int] | None, channels: int) -> np.ndarray:
    """Pixels of an image file, uint8 [height, width, channels], resized to `size` (height, width) if given.

    channels: 1 or 3. Raises UserError, naming the file, for data that are not one whole image. Grey of 16 bits is
    divided by 257; integers of 32 bits are too where they lie within 0 to 65535, and floats within 0 to 1 are
    multiplied by 255: others are stretched, the least to 0 and the largest to 255.
    """
    with _opened(data, name) as image:
        _refuse_pages(image, name)
        picture, alpha = _plain(image, data, name)
        picture = _in_srgb(picture, image.info)
        if alpha is not None and alpha.getextrema() != (255, 255):
            ground = Image.new(picture.mode, picture.size, "white")
            ground.paste(picture, mask=alpha)
            picture = ground
        orientation = _orientation(image)
        if orientation in TRANSPOSED:
            picture = picture.transpose(TRANSPOSED[orientation])
        mode = "RGB" if channels == 3 else "L"
        if picture.mode != mode:
            picture = picture.convert(mode)
        if size is not None and picture.size != size[::-1]:
            picture = picture.resize(size[::-1], Image.Resampling.BICUBIC)
        return np.asarray(picture).reshape(picture.height, picture.width, channels)


def decode_mask(data: bytes, name: str, *, colours: bool) -> np.ndarray:
    """The values of a file whose pixels are labels and not shades: int32 [height, width], or uint8 [height, width, 3].

    colours: the colours, a palette's included; otherwise the numbers that the file stores: indices of a palette, 0 and
    1 of one bit, grey of 2 to 16 bits, 32-bit integers. An orientation is undone as in an image; a colour profile and a
    palette's transparency are not looked at. Raises UserError, naming the file, for one of another kind.
    """
    with _opened(data, name) as image:
        _refuse_pages(image, name)
        image.load()
        bits = data[24] if image.format == "PNG" else 8
        if image.mode not in MASK_MODES and not (colours and image.mode in ("RGB", "RGBA")):
            wanted = "colours or numbers" if colours else "one number a pixel; for colours set data.values to colours"
            raise UserError(f"{shown(name)} has pixels of the kind {image.mode}: give a mask with {wanted}")
        picture = image.convert("RGB") if colours else image
        orientation = _orientation(image)
        if orientation in TRANSPOSED:
            picture = picture.transpose(TRANSPOSED[orientation])
        values = np.asarray(picture)
        if colours:
            return values
        values = values.astype(np.int32)
        if image.mode == "L" and bits < 8:  # which Pillow spreads over 0 to 255
            values //= 255 // (2**bits - 1)
        return values


def image_size(data: bytes, name: str) -> tuple[int, int]:
    """Height and width that `decode_image` gives without a size; next to nothing is decoded for that."""
    with _opened(data, name) as image:
        width, height = image.size
        if image.format == "PNG" and any(mark in data for mark in (b"eXIf", b"Raw profile type", b"adobe.xmp")):
            image.load()  # an orientation may come after the pixels
        return (width, height) if _orientation(image) >= 5 else (height, width)


def too_large(path: Path | str, size: int) -> UserError:
    """The error of a file of more than LARGEST bytes."""
    return UserError(f"{shown(path)} has {size:,} bytes, and at most {LARGEST:,} are read: make it smaller")


def shown(name: Path | str) -> str:
    """A path as a message shows it: what cannot be printed, such as bytes that are not UTF-8, becomes U+FFFD."""
    text = str(name)
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def short(error: Exception) -> str:
    """What an error of a library says, in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return shown(" ".join(text.split()))[:200] or type(error).__name__


@contextlib.contextmanager
def _opened(data: bytes, name: str) -> Iterator[Image.Image]:
    """The image before it is decoded; any error of the decoders, meanwhile, becomes a UserError."""
    kind = image_format(data[:SIGNATURE_BYTES])
    if kind is None and data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS:
        raise UserError(f"{shown(name)} cannot be read as an image (it holds HEIC): convert it to JPEG or PNG")
    if kind is None:
        raise _refused(name, f"it begins with {data[:8]!r}; {READ}" if data else "it is empty")
    try:
        with Image.open(io.BytesIO(data), formats=(kind,)) as image:
            if image.width * image.height > PIXELS:
                raise Image.DecompressionBombError
            yield image
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(f"{shown(name)} has more than {PIXELS:,} pixels: make it smaller or remove it") from error
    except Image.UnidentifiedImageError as error:
        raise _refused(name, f"it begins as {kind} and its header is damaged") from error
    except Exception as error:  # Pillow's decoders raise anything from SyntaxError to struct.error
        raise _refused(name, short(error)) from error


def _refused(name: str, reason: str) -> UserError:
    return UserError(f"{shown(name)} cannot be read as an image ({reason}): repair or remove it")


def _refuse_pages(image: Image.Image, name: str) -> None:
    """Raises UserError for a TIFF of several pages, unless the further ones are smaller copies or masks of the first.

    Which these are is said by a tag.
    """
    if not isinstance(image, TiffImageFile) or image.n_frames == 1:
        return
    for page in range(1, image.n_frames):
        image.seek(page)
        if not image.tag_v2.get(SUBFILE, 0) & 0b101:
            raise UserError(f"{shown(name)} has {image.n_frames} pages: save each as a file of its own")
    image.seek(0)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation that is still to be undone, 1 to 8."""
    if image.format == "TIFF":  # Pillow turns these itself
        return 1
    if not METADATA & image.info.keys():
        return 1
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged metadata: a viewer shows the image as it is stored
        return 1
    return found if found in TRANSPOSED else 1


def _plain(image: Image.Image, data: bytes, name: str) -> tuple[Image.Image, Image.Image | None]:
    """The image with 8 bits to a channel, of mode L, RGB, CMYK or LAB, and its opacity, of mode L."""
    image.load()
    if image.mode.startswith(("I", "F")):
        return _eight_bits(image, name)
    if image.has_transparency_data:
        key = image.info.get("transparency")
        if image.format == "PNG":  # brought to 8 bits as Pillow does with the pixels
            bits = data[24]
            if image.mode == "RGB" and bits == 16 and isinstance(key, tuple):
                image.info["transparency"] = tuple(value >> 8 for value in key)
            elif image.mode == "L" and bits < 8 and isinstance(key, int):
                image.info["transparency"] = key % 2**bits * (255 // (2**bits - 1))
        image = image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
        *bands, alpha = image.split()
        return Image.merge("RGB" if len(bands) == 3 else "L", bands), alpha
    if image.mode not in COLOUR_SPACES:
        image = image.convert("L" if image.mode == "1" else "RGB")
    return image, None


def _eight_bits(image: Image.Image, name: str) -> tuple[Image.Image, Image.Image | None]:
    """An image of grey with 16 or 32 bits as one of mode L, by the rule that `decode_image` states, and its opacity."""
    tags = getattr(image, "tag_v2", {})
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"{shown(name)} holds values that are not finite: replace them by numbers")
    if image.mode == "I" and tags and tags.get(SAMPLE_FORMAT, (1,))[0] == 1:
        values = values.view(np.uint32)  # Pillow has signed ones alone
        low, high = values.min(), values.max()
    if image.mode.startswith("I;16"):
        low, high = 0, 2 ** tags.get(BITS, (16,))[0] - 1  # 12 bits of some scanners are kept as 16
    elif low >= 0 and high <= (1 if image.mode == "F" else 65535):
        low, high = 0, 1 if image.mode == "F" else 65535
    # In place and with 4 bytes a pixel, where that is exact enough: images are large.
    grey = values.astype(np.float32 if image.mode.startswith("I;16") else np.float64)
    grey -= low
    grey *= 255 / max(float(high) - float(low), np.finfo(np.float64).tiny)
    grey = np.rint(grey, out=grey).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == 0:  # white is zero, which Pillow undoes for 8 bits alone
        grey = 255 - grey
    key = image.info.get("transparency")
    alpha = None if key is None else Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8))
    return Image.fromarray(grey), alpha


def _in_srgb(picture: Image.Image, info: Mapping[str | tuple[int, int], Any]) -> Image.Image:
    """L or RGB as its colour profile or PNG's gamma means it; what cannot be used is ignored, as viewers do."""
    profile, gamma = info.get("icc_profile"), info.get("gamma")
    if gamma and not profile and "srgb" not in info and abs(gamma - GAMMA) > 0.01:
        return picture.point(_gamma_table(gamma) * len(picture.getbands()))
    if profile or picture.mode == "LAB":
        transform = _transform(profile or b"", picture.mode)
        if transform is not None:
            return transform.apply(picture)
    return picture if picture.mode in ("L", "RGB") else picture.convert("RGB")


@functools.lru_cache(maxsize=32)
def _gamma_table(gamma: float) -> list[int]:
    """What each of 256 stored values is in sRGB (IEC 61966-2-1), where light is value ** (1 / gamma) (PNG, gAMA)."""
    light = (np.arange(256) / 255) ** (1 / gamma)
    return np.rint(255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)).tolist()


@functools.lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a colour profile to sRGB; None where that changes no colour by more than 2, or where it cannot be done."""
    try:
        # LAB is of no device: it needs no profile.
        source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB") if mode == "LAB" else io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != COLOUR_SPACES[mode]:
            return None
        intent = ImageCms.Intent(ImageCms.getDefaultIntent(source))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", intent)
        if mode in ("L", "RGB"):
            steps = np.arange(0, 256, 17 if mode == "RGB" else 1, dtype=np.uint8)
            shape = (len(steps), -1, 3) if mode == "RGB" else (1, -1)
            probe = Image.fromarray(np.stack(np.meshgrid(*[steps] * len(mode)), -1).reshape(shape))
            wanted, found = (np.asarray(each, int) for each in (probe.convert("RGB"),
                                                               transform.apply(probe)))  # fmt: skip
            if np.abs(wanted - found).max() <= 2:
                return None
        return transform
    except Exception:  # whatever the library makes of a damaged profile
        return None
