"""Image files made by hand from known values, as the formats' standards say; nothing of the project makes them."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def save(pixels: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    """An image file that Pillow writes."""
    stream = io.BytesIO()
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(pixels: np.ndarray, *chunks: tuple[bytes, bytes], palette: bool = False) -> bytes:
    """A PNG of uint8 or uint16 pixels [height, width] or [height, width, 2 to 4]; chunks come before the pixels."""
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    height, width, channels = pixels.shape
    kind = 3 if palette else {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    raw = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in raw)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )


def tiff(pixels: np.ndarray, bits: int, sample_format: int = 1, white_is_zero: bool = False) -> bytes:
    """A grey TIFF; 12 bits are packed as the standard says."""
    height, width = pixels.shape
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    if bits == 12:
        text = ["".join(f"{value:012b}" for value in row) for row in pixels]
        padded = "".join(row + "0" * (-len(row) % 8) for row in text)
        data = int(padded, 2).to_bytes(len(padded) // 8, "big")
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 0 if white_is_zero else 1, 273: 8, 277: 1, 278: height,
            279: len(data), 339: sample_format}  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def exif(orientation: int) -> bytes:
    """The EXIF data, without its name, that hold an orientation alone."""
    return b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)


def profile(space: str, gamma: float, order: str = "rgb") -> bytes:
    """A colour profile of sRGB's primaries, given in another order if wished, or of grey, with a power as its curve."""
    curve = b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256)) + b"\0\0"
    white = (0.9642, 1.0, 0.8249)
    primaries = {"r": (0.4360, 0.2225, 0.0139), "g": (0.3851, 0.7169, 0.0971), "b": (0.1431, 0.0606, 0.7141)}

    def xyz(values: tuple[float, ...]) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))

    tags = {b"wtpt": xyz(white)}
    if space == "GRAY":
        tags[b"kTRC"] = curve
    else:
        for channel, primary in zip("rgb", order, strict=True):
            tags[f"{channel}XYZ".encode()], tags[f"{channel}TRC".encode()] = xyz(primaries[primary]), curve
    start, table, data = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content
    header = struct.pack(">I4sI4s4s4s", start + len(data), b"", 0x02400000, b"mntr", space.ljust(4).encode(), b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", *(round(value * 65536) for value in white))
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def iccp(content: bytes) -> tuple[bytes, bytes]:
    """The chunk of a PNG that holds a colour profile."""
    return b"iCCP", b"profile\0\0" + zlib.compress(content)


def srgb_of(linear: np.ndarray) -> np.ndarray:
    """sRGB's curve (IEC 61966-2-1): light from 0 to 1 as uint8."""
    curved = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(curved * 255).astype(np.uint8)


def on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Pixels [height, width, channels] of an opacity uint8 [height, width] on a white ground."""
    share = alpha[..., None] / 255
    return np.rint(pixels * share + 255 * (1 - share)).astype(np.uint8)
