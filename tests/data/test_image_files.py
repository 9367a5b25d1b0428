"""Pixels of image files against the raw values they were made of, and files that are refused."""

import contextlib
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from research.data import image_files
from research.data.image_files import SUFFIXES, decode_image, image_format, image_size, read_image_file
from research.errors import UserError
from tests.data.raw_images import exif, iccp, on_white, png, profile, save, srgb_of, tiff

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (5, 7, 3), np.uint8)
GREY = RANDOM.integers(0, 256, (5, 7), np.uint8)
FIRST = int(GREY[0, 0])
ALPHA = RANDOM.integers(0, 256, (5, 7), np.uint8)
DEEP = np.linspace(0, 65535, 64).astype(np.uint16).reshape(4, 16)


def close(data: bytes, wanted: np.ndarray, within: int = 0, name: str = "file") -> None:
    """The file must have these pixels: [height, width], decoded with one channel, or [height, width, 3]."""
    channels = 1 if wanted.ndim == 2 else 3
    found = decode_image(data, name, None, channels)
    assert found.dtype == np.uint8 and found.shape == (*wanted.shape[:2], channels)
    assert np.abs(found.reshape(wanted.shape).astype(int) - wanted).max() <= within
    assert image_size(data, name) == wanted.shape[:2]


@pytest.mark.parametrize(
    "data",
    [
        png(DEEP),
        save(DEEP, "TIFF"),
        tiff(DEEP, 16),
        save(DEEP, "JPEG2000"),
        b"P5 16 4 65535\n" + DEEP.astype(">u2").tobytes(),
        tiff(DEEP.astype(np.int32), 32, 2),
        tiff(DEEP.astype(np.uint32), 32),
        tiff(np.uint32(2**32 - 1) - np.uint32(65537) * np.uint32(DEEP[::-1, ::-1]), 32),  # over the whole range
        tiff((DEEP / 65535).astype(np.float32), 32, 3),
        tiff((DEEP / 65535 * 30 - 10).astype(np.float32), 32, 3),  # stretched
        tiff(65535 - DEEP, 16, white_is_zero=True),
        tiff((1 - DEEP / 65535).astype(np.float32), 32, 3, white_is_zero=True),
    ],
)
def test_deep_grey_keeps_its_shades(data: bytes):
    close(data, np.rint(DEEP / 257).astype(np.uint8), within=1)  # 1: the test's own rounding to whole numbers
    assert len(np.unique(decode_image(data, "deep", None, 1))) == 64


def test_twelve_bits_and_deep_colour():
    twelve = (np.arange(64) * 65).astype(np.uint16).reshape(4, 16)
    close(tiff(twelve, 12), np.rint(twelve / 4095 * 255).astype(np.uint8))
    close(b"P5 16 4 4095\n" + twelve.astype(">u2").tobytes(), np.rint(twelve / 4095 * 255).astype(np.uint8), within=1)
    colour = np.stack([DEEP, DEEP[::-1], DEEP[:, ::-1]], -1)
    close(png(colour), np.rint(colour / 257).astype(np.uint8), within=1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value: float):
    with pytest.raises(UserError, match=r"scan\.tif holds values that are not finite: replace"):
        decode_image(tiff(np.array([[0.5, value]], np.float32), 32, 3), "scan.tif", None, 1)


TURNED = {
    1: lambda pixels: pixels, 2: lambda pixels: pixels[:, ::-1], 3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1], 5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1), 7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}  # fmt: skip
"""What the EXIF standard (2.32, table 6) says of where row 0 and column 0 of the stored pixels are seen."""


@pytest.mark.parametrize("orientation", [*TURNED, 0, 9])
def test_orientation_is_honoured(orientation: int):
    wanted = TURNED.get(orientation, TURNED[1])(COLOUR)
    data = exif(orientation)
    close(png(COLOUR, (b"eXIf", data)), wanted)
    close(save(COLOUR, "WEBP", lossless=True, exif=b"Exif\0\0" + data), wanted)
    smooth = np.broadcast_to(np.linspace(0, 255, 48 * 32).reshape(48, 32, 1), (48, 32, 3)).astype(np.uint8)
    close(save(smooth, "JPEG", quality=100, exif=b"Exif\0\0" + data), TURNED.get(orientation, TURNED[1])(smooth), 3)
    if orientation in TURNED:
        close(save(COLOUR, "TIFF", tiffinfo={0x0112: orientation}), wanted)
    if orientation in TURNED:
        close(save(COLOUR, "AVIF", quality=100, subsampling="4:4:4", exif=b"Exif\0\0" + data), wanted, 12)


def test_transparency_lies_on_white():
    black = np.zeros((5, 7, 3), np.uint8)
    close(png(np.dstack([black, ALPHA])), on_white(black, ALPHA), 1)  # a drawing on a transparent ground
    close(png(np.dstack([COLOUR, ALPHA])), on_white(COLOUR, ALPHA), 1)
    close(save(np.dstack([COLOUR, ALPHA]), "TIFF"), on_white(COLOUR, ALPHA), 1)
    close(png(np.dstack([GREY, ALPHA])), on_white(GREY[..., None], ALPHA)[..., 0], 1)
    key = np.where(GREY == FIRST, 255, GREY)
    close(png(GREY, (b"tRNS", bytes([0, FIRST]))), key)
    close(png(GREY.astype(np.uint16) * 257, (b"tRNS", bytes([FIRST, FIRST]))), key)
    colour = COLOUR.copy()
    colour[0, 0] = 255
    for raw in (COLOUR, COLOUR.astype(np.uint16) * 256 + 17):
        close(png(raw, (b"tRNS", raw[0, 0].astype(">u2").tobytes())), colour)


def test_palettes():
    palette = RANDOM.integers(0, 256, (256, 3), np.uint8)
    chunk = (b"PLTE", palette.tobytes())
    close(png(GREY, chunk, palette=True), palette[GREY])
    opacity = RANDOM.integers(0, 256, 256, np.uint8)
    close(png(GREY, chunk, (b"tRNS", opacity.tobytes()), palette=True), on_white(palette[GREY], opacity[GREY]), 1)
    image = Image.fromarray(GREY)
    image = image.convert("P")
    image.putpalette(palette.tobytes())
    ground = palette[GREY]
    ground[GREY == FIRST] = 255
    close(save(image, "GIF", transparency=FIRST, optimize=False), ground)


def test_ink_is_shown_as_colour():
    ink = RANDOM.integers(0, 256, (5, 7, 4), np.uint8)
    light = 255 - ink.astype(float)
    wanted = np.rint(light[..., :3] * light[..., 3:] / 255)
    close(save(Image.fromarray(ink, "CMYK"), "TIFF"), wanted, 1)
    flat = np.broadcast_to(ink[:1, :1], (16, 16, 4)).copy()
    wanted = np.broadcast_to(wanted[:1, :1], (16, 16, 3))
    close(save(Image.fromarray(flat, "CMYK"), "JPEG", quality=100), wanted, 4)


def test_colour_profiles_are_honoured():
    swapped = profile("RGB", 2.2, "grb")
    close(png(COLOUR, iccp(swapped)), srgb_of((COLOUR[..., [1, 0, 2]] / 255) ** 2.2), 3)
    linear = profile("RGB", 1.0)
    close(png(COLOUR, iccp(linear)), srgb_of(COLOUR / 255), 3)
    close(png(np.dstack([COLOUR, ALPHA]), iccp(linear)), on_white(srgb_of(COLOUR / 255), ALPHA), 3)
    close(png(GREY, iccp(profile("GRAY", 1.8))), srgb_of((GREY / 255) ** 1.8), 2)
    close(save(COLOUR, "TIFF", icc_profile=linear), srgb_of(COLOUR / 255), 3)


def gama(gamma: float) -> tuple[bytes, bytes]:
    """The chunk of a PNG that says the power which light was stored with."""
    return b"gAMA", struct.pack(">I", round(gamma * 100_000))


def test_gamma_of_a_png_is_honoured():
    close(png(COLOUR, gama(1.0)), srgb_of(COLOUR / 255))
    close(png(GREY, gama(1 / 1.8)), srgb_of((GREY / 255) ** 1.8), 1)
    close(png(np.full((2, 3), 128, np.uint8), gama(1.0)), np.full((2, 3), 188))  # half of the light
    close(png(np.dstack([COLOUR, ALPHA]), gama(1.0)), on_white(srgb_of(COLOUR / 255), ALPHA), 1)
    for same in ([gama(0.45455)], [(b"sRGB", b"\0"), gama(1.0)], [gama(0)]):
        close(png(COLOUR, *same), COLOUR)


@pytest.mark.parametrize(
    "content", [b"", b"junk", profile("GRAY", 1.0), profile("CMYK", 1.0), profile("RGB", 1.0)[:200]]
)
def test_profiles_that_cannot_be_used_are_ignored(content: bytes):
    close(png(COLOUR, iccp(content)), COLOUR)


def test_profiles_of_srgb_change_nothing_and_are_read_once(monkeypatch: pytest.MonkeyPatch):
    srgb = image_files.ImageCms.ImageCmsProfile(image_files.ImageCms.createProfile("sRGB")).tobytes()
    data = png(COLOUR, iccp(srgb))
    close(data, COLOUR)
    monkeypatch.delattr(image_files, "ImageCms")  # neither read nor applied again
    close(data, COLOUR)


def test_the_first_frame_of_an_animation():
    other = 255 - COLOUR
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        frames = {"save_all": True, "append_images": [Image.fromarray(other)]}
        close(save(COLOUR, kind, **frames, **options), COLOUR)
    close(save(GREY, "GIF", save_all=True, append_images=[Image.fromarray(255 - GREY)]), GREY)
    flat = np.full((16, 16, 3), 90, np.uint8)
    close(save(flat, "MPO", save_all=True, append_images=[Image.fromarray(255 - flat)]), flat, 2)


def test_pages_are_refused_and_thumbnails_are_not():
    def pages(*subfiles: int) -> bytes:
        images = [Image.fromarray(COLOUR) for _ in subfiles]
        for image, subfile in zip(images, subfiles, strict=True):
            image.encoderinfo = {"tiffinfo": {254: subfile}}
        return save(Image.fromarray(COLOUR), "TIFF", save_all=True, append_images=images)

    close(pages(1), COLOUR)
    close(pages(1, 1, 4), COLOUR)
    for subfiles in ((0,), (1, 2)):
        with pytest.raises(UserError, match=rf"fax\.tif has {len(subfiles) + 1} pages: save each as a file of its own"):
            decode_image(pages(*subfiles), "fax.tif", None, 3)


def test_content_reaches_no_other_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    marker, ghostscript = tmp_path / "marker", tmp_path / "bin" / "gs"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\ntouch {marker}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ghostscript.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n")
    with pytest.raises(OSError), Image.open(picture) as image:
        image.load()
    assert marker.exists()  # the trap works
    marker.unlink()
    for read in (lambda *args: decode_image(*args, None, 3), image_size):
        with pytest.raises(UserError, match=r"picture\.png cannot be read as an image \(it begins with b'%!PS-Ado'"):
            read(picture.read_bytes(), "picture.png")
    assert not marker.exists()


@pytest.mark.parametrize("data", [b"BM", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"P6 ", b"GIF89a"])
def test_a_damaged_file_is_tried_by_no_decoder_of_other_formats(data: bytes, monkeypatch: pytest.MonkeyPatch):
    tried = []

    def trap(*file):
        tried.append(file)
        raise SyntaxError("none of mine")

    with contextlib.suppress(OSError):
        Image.open(io.BytesIO(b"?"))  # so that all decoders are there
    monkeypatch.setattr(Image, "ID", ["TRAP", *Image.ID])
    monkeypatch.setitem(Image.OPEN, "TRAP", (trap, None))
    with contextlib.suppress(OSError, ValueError):
        Image.open(io.BytesIO(data))
    assert tried  # the trap works
    tried.clear()
    with pytest.raises(UserError, match="cannot be read as an image"):
        decode_image(data + b"junk", "damaged", None, 3)
    assert not tried


def test_only_the_listed_formats_are_known():
    for suffix, kind in Image.registered_extensions().items():
        if kind in {*image_files.SIGNATURES, "WEBP", "AVIF", "MPO"}:
            assert suffix in SUFFIXES or kind == "BMP"
        else:
            assert suffix not in SUFFIXES
    assert image_format(b"\0\0\0\x1cftypavif\0\0\0\0") == "AVIF" and image_format(b"RIFF\1\2\3\4WEBPVP8 ") == "WEBP"
    assert image_format(b"\0\0\0\x1cftypheic\0\0\0\0") is None and image_format(b"") is None


def test_limits_come_before_decoding(monkeypatch: pytest.MonkeyPatch):
    huge = png(np.zeros((1, 1), np.uint8))
    header = bytearray(huge)
    for width, height in ((200_000, 1000), (2**31 - 1, 2**31 - 1)):
        header[16:24] = width.to_bytes(4) + height.to_bytes(4)
        header[29:33] = zlib.crc32(header[12:29]).to_bytes(4)
        with pytest.raises(UserError, match=r"bomb\.png has more than 178,956,970 pixels: make it smaller"):
            decode_image(bytes(header), "bomb.png", None, 3)
    monkeypatch.setattr(image_files, "PIXELS", 34)
    with pytest.raises(UserError, match="more than 34 pixels"):
        decode_image(png(GREY), "picture.png", None, 3)


SILENT = """
import pathlib, sys
from research.data.image_files import decode_image, image_size
for path in sys.argv[1:]:
    data = pathlib.Path(path).read_bytes()
    print(image_size(data, path), decode_image(data, path, (2, 2), 3).shape if len(data) < 5000 else "")
"""


def test_nothing_warns(tmp_path: Path):
    """Palettes with transparency, damaged metadata and images above Pillow's first limit."""
    palette = (b"PLTE", bytes(768))
    (tmp_path / "a.png").write_bytes(png(GREY, palette, (b"tRNS", bytes(9)), palette=True))
    (tmp_path / "b.jpg").write_bytes(save(COLOUR, "JPEG", exif=b"Exif\0\0" + exif(6)[:12] + b"\xff" * 9))
    (tmp_path / "c.png").write_bytes(save(Image.new("1", (10_000, 10_000)), "PNG"))
    arguments = [sys.executable, "-W", "error", "-c", SILENT, *sorted(map(str, tmp_path.iterdir()))]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and "(10000, 10000)" in done.stdout


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000"])
def test_damaged_files_end_in_one_sentence(kind: str):
    data = save(RANDOM.integers(0, 256, (40, 40, 3), np.uint8), kind)
    assert image_format(data[:16]) == kind
    for place in range(0, len(data), max(len(data) // 40, 1)):
        spoilt = (
            data[:place],
            data[:place] + bytes(byte ^ 255 for byte in data[place : place + 4]) + data[place + 4 :],
        )
        for content in spoilt:
            try:
                decode_image(content, "bad\nname", None, 3)  # what is cut off or changed may be no pixel
            except UserError as error:
                assert str(error).startswith("bad\ufffdname ") and "\n" not in str(error)
    with pytest.raises(UserError, match="cannot be read as an image"):
        decode_image(data[: len(data) // 2], "half", None, 3)


def test_files_that_a_person_names(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "big.png").touch()
    os.truncate(tmp_path / "big.png", 2**33)
    cases = {
        "nothing.png": r"nothing\.png cannot be read \(No such file or directory\): give an image file",
        "pipe.png": "is not a file: give an image file",
        "": "is not a file",
        "big.png": "has 8,589,934,592 bytes, and at most 536,870,912 are read: make it smaller",
        "a\0b": "cannot be read",
        "long" * 200: "cannot be read",
    }
    for name, message in cases.items():
        with pytest.raises(UserError, match=message):
            read_image_file(tmp_path / name)
    with pytest.raises(UserError, match=r"it holds HEIC\): convert it to JPEG or PNG"):
        decode_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "IMG_1.jpg", None, 3)
    with pytest.raises(UserError, match=r"it is empty\): repair"):
        decode_image(b"", "x.jpg", None, 3)
