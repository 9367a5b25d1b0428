"""What a camera, a scanner, a phone, Windows, macOS and a network drive leave behind: the pixels and the examples."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from research.data.image_folder import ImageFolder
from research.data.packing import PackedImages
from tests.data.raw_images import exif, iccp, on_white, png, profile, save, srgb_of, tiff

RANDOM = np.random.default_rng(14)
COLOUR = RANDOM.integers(0, 256, (5, 7, 3), np.uint8)
GREY = RANDOM.integers(0, 256, (5, 7), np.uint8)
ALPHA = RANDOM.integers(0, 256, (5, 7), np.uint8)
DEEP = RANDOM.integers(0, 2**16, (5, 7), np.uint16)
PALETTE = RANDOM.integers(0, 256, (256, 3), np.uint8)
SMOOTH = np.broadcast_to(np.linspace(0, 255, 48 * 32).reshape(48, 32, 1), (48, 32, 3)).astype(np.uint8)
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
EXIF = b"Exif\0\0"


def grey(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[..., None], 3, -1)


EXAMPLES = {
    # A camera and a phone: photos on their sides, several pictures in one file, a burst.
    "cat/DSC_0001.JPG": (save(SMOOTH, "JPEG", quality=100, exif=EXIF + exif(6)), np.rot90(SMOOTH, -1), 3),
    "cat/DSC_0002.MPO": (
        save(SMOOTH, "MPO", quality=100, save_all=True, append_images=[Image.fromarray(SMOOTH[::-1])]), SMOOTH, 3,
    ),
    "cat/PXL_2024.jpeg": (save(SMOOTH, "JPEG", quality=100, exif=EXIF + exif(8)), np.rot90(SMOOTH), 3),
    "cat/screenshot.png": (png(COLOUR, (b"eXIf", exif(3))), COLOUR[::-1, ::-1], 0),
    "cat/wide gamut.png": (png(COLOUR, iccp(profile("RGB", 1.0))), srgb_of(COLOUR / 255), 3),
    "cat/IMG_0001.avif": (save(SMOOTH, "AVIF", quality=100, subsampling="4:4:4"), SMOOTH, 4),
    # A scanner: 16 bits, 12 bits, floats, a negative, a profile of grey, a thumbnail beside the page.
    "cat/scan16.png": (png(DEEP), grey(np.rint(DEEP / 257)), 0),
    "cat/scan16.TIF": (tiff(DEEP, 16), grey(np.rint(DEEP / 257)), 0),
    "cat/scan12.tiff": (tiff(DEEP >> 4, 12), grey(np.rint((DEEP >> 4) / 4095 * 255)), 0),
    "cat/negative.tif": (tiff(DEEP, 16, white_is_zero=True), grey(255 - np.rint(DEEP / 257)), 0),
    "cat/float.tif": (tiff((DEEP / 65535).astype(np.float32), 32, 3), grey(np.rint(DEEP / 257)), 0),
    "cat/grey.png": (png(GREY, iccp(profile("GRAY", 1.8))), grey(srgb_of((GREY / 255) ** 1.8)), 2),
    # Windows and the web: other suffixes and none, palettes, transparency, ink, an animation.
    "dog/download.jfif": (save(SMOOTH, "JPEG", quality=100), SMOOTH, 3),
    "dog/download": (png(COLOUR), COLOUR, 0),
    "dog/paint.BMP": (save(COLOUR, "BMP"), COLOUR, 0),
    "dog/drawing.png": (png(np.dstack([0 * COLOUR, ALPHA])), on_white(0 * COLOUR, ALPHA), 1),
    "dog/logo.png": (
        png(GREY, (b"PLTE", PALETTE.tobytes()), (b"tRNS", ALPHA.tobytes()), palette=True),
        on_white(PALETTE[GREY], np.append(ALPHA.ravel(), np.full(221, 255))[GREY]), 1,
    ),
    "dog/print.tif": (
        save(Image.fromarray(np.dstack([COLOUR, ALPHA]), "CMYK"), "TIFF"),
        np.rint((255.0 - COLOUR) * (255 - ALPHA[..., None].astype(float)) / 255), 1,
    ),
    "dog/funny.gif": (save(GREY, "GIF", save_all=True, append_images=[Image.fromarray(255 - GREY)]), grey(GREY), 0),
    "dog/sticker.webp": (
        save(np.dstack([COLOUR, ALPHA]), "WEBP", lossless=True, exact=True), on_white(COLOUR, ALPHA), 1,
    ),
    "dog/map.jp2": (save(COLOUR, "JPEG2000"), COLOUR, 0),
    "dog/old.ppm": (b"P6 7 5 255\n" + COLOUR.tobytes(), COLOUR, 0),
}  # fmt: skip
"""Name -> the file, the pixels a viewer shows, and by how much lossy compression and rounding may differ."""

HIDDEN = (".DS_Store", "._DSC_0001.JPG", "Thumbs.db", "desktop.ini", "ehthumbs.db", "@eaDir/DSC_0001.JPG/thumb.jpg",
          ".thumbnails/1.jpg", "#recycle/old.jpg", "$RECYCLE.BIN/1.jpg", "lost+found/1.jpg", ".picasa.ini")  # fmt: skip
NOT_IMAGES = ("DSC_0003.NEF", "MVI_0004.MOV", "notes", "readme.txt")


def files() -> dict[str, bytes]:
    found = {name: content for name, (content, _, _) in EXAMPLES.items()}
    for folder in ("", "cat/", "dog/"):
        found |= {folder + name: png(COLOUR) for name in HIDDEN}
    found |= {"__MACOSX/cat/._DSC_0001.JPG": b"junk", "System Volume Information/1.png": png(COLOUR)}
    found |= {f"cat/{name}": b"something else" for name in NOT_IMAGES}
    return found | {"cat/IMG_0005.HEIC": HEIC, "README": b"About these pictures.\n"}


@pytest.fixture(params=["folder", "zip", "zip of Windows"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    root = tmp_path / "pictures"
    if request.param != "folder":
        with zipfile.ZipFile(f"{root}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files().items():
                archive.writestr(name.replace("/", "\\") if "Windows" in request.param else name, content)
        return f"{root}.zip"
    for name, content in files().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "dog" / "1.png").mkdir()  # a folder
    (root / "dog" / "all").symlink_to(root)  # a loop
    os.mkfifo(root / "dog" / "pipe.jpg")
    return str(root)


def test_the_examples_and_their_pixels(path: str):
    examples = ImageFolder(path, validation_fraction=0).examples("train")
    assert [name for name, _ in examples.entries] == sorted(EXAMPLES)
    for index, (name, label) in enumerate(examples.entries):
        _, wanted, within = EXAMPLES[name]
        example = examples[index]
        assert label == example["label"] == ("cat", "dog").index(name[:3])
        assert example["image"].shape == wanted.shape and example["image"].dtype == np.uint8, name
        assert np.abs(example["image"].astype(int) - wanted).max() <= within, name
        assert examples.image_size(index) == wanted.shape[:2], name
    rows = PackedImages(examples, 4, 16, 64, 8, 0)  # sizes without decoding agree with what is decoded
    batch = rows.batch(np.arange(len(rows)), np.zeros(len(rows), int), None)
    assert (batch["label"] >= 0).sum() == len(EXAMPLES)


def test_what_is_left_out_is_said(path: str):
    source = ImageFolder(path)
    links = [
        f"1 file of {path} is neither a file nor a folder and is left out: dog/pipe.jpg",
        f"1 file of {path} leads to a folder that is read under another name and is left out: dog/all",
    ]
    assert list(source.left_out("train")) == [
        f"5 files of {path} are not images and are left out: README, cat/DSC_0003.NEF, cat/MVI_0004.MOV, cat/notes, "
        "cat/readme.txt",
        f"1 file of {path} is HEIC and is left out until it is converted to JPEG or PNG: cat/IMG_0005.HEIC",
        *([] if path.endswith(".zip") else links),
    ]
    assert source.left_out("validation") == ()  # a part of training
    assert ImageFolder(path, test_path=path).left_out("test") == source.left_out("train")
