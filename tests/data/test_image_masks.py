"""Masks of every kind against the labels they were made of, and pairs that are refused or left out."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from research.data.image_files import decode_mask
from research.data.image_masks import ImageMasks
from research.errors import UserError
from tests.data.raw_images import exif

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 3, (5, 7)).astype(np.uint8)
TABLE = np.array([[0, 0, 0], [128, 64, 255], [7, 8, 9]], np.uint8)


def file_of(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def palette():
    picture = Image.fromarray(LABELS, "P")
    picture.putpalette(TABLE.ravel().tolist())
    return picture


def write(folder, masks, images=None, suffix="png"):
    """A folder of pairs: 1.png, 2.png, ..."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number, mask in enumerate(masks, 1):
        image = np.full((*LABELS.shape, 3), number, np.uint8) if images is None else images[number - 1]
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        (folder / "masks" / f"{number}.{suffix}").write_bytes(mask)
    return str(folder)


KINDS = {
    "index": (Image.fromarray(LABELS), {}),
    "palette": (palette(), {}),
    "palette_as_colours": (palette(), {"values": tuple(map(tuple, TABLE.tolist()))}),
    "colours": (Image.fromarray(TABLE[LABELS]), {"values": tuple(map(tuple, TABLE.tolist()))}),
    "shades": (Image.fromarray(LABELS * 100), {"values": (0, 100, 200)}),
    "deep": (Image.fromarray(LABELS.astype(np.uint16) * 30000), {"values": (0, 30000, 60000)}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_every_kind(kind, tmp_path):
    picture, fields = KINDS[kind]
    source = ImageMasks(write(tmp_path / "a", [file_of(picture)]), classes=("a", "b", "c"), **fields)
    (example,) = source.examples("train")
    np.testing.assert_array_equal(example["mask"], LABELS)
    assert example["mask"].dtype == np.uint8 and example["image"].shape == (5, 7, 3)
    assert source.examples("train").image_size(0) == (5, 7) and source.class_names == ("a", "b", "c")


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_of_grey_are_numbers(bits):
    """Written by hand: Pillow spreads such numbers over 0 to 255."""
    rows = np.arange(8).reshape(2, 4) % 2**bits
    whole = -(-4 * bits // 8)  # bytes of a row
    texts = ["".join(f"{value:0{bits}b}" for value in row).ljust(8 * whole, "0") for row in rows]
    packed = b"".join(b"\0" + int(text, 2).to_bytes(whole, "big") for text in texts)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 2, bits, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(packed)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode_mask(data, "mask", colours=False), rows)


def test_a_mask_is_turned_as_its_image_is():
    data = file_of(Image.fromarray(LABELS), "TIFF")
    turned = file_of(Image.fromarray(LABELS), exif=exif(6))
    np.testing.assert_array_equal(decode_mask(data, "mask", colours=False), LABELS)
    np.testing.assert_array_equal(decode_mask(turned, "mask", colours=False), np.rot90(LABELS, -1))


def test_ignored_pixels(tmp_path):
    values = np.where(LABELS == 2, 77, LABELS).astype(np.uint8)
    path = write(tmp_path / "a", [file_of(Image.fromarray(values))])
    (example,) = ImageMasks(path, classes=("a", "b"), ignore=77).examples("train")
    np.testing.assert_array_equal(example["mask"], np.where(LABELS == 2, 255, LABELS))
    with pytest.raises(UserError, match=r"pixels of .*masks/1\.png are not of a class \(the first is 77\)"):
        ImageMasks(path, classes=("a", "b")).examples("train")[0]


def test_splits_are_the_last_ones_by_number(tmp_path):
    path = write(tmp_path / "a", [file_of(Image.fromarray(LABELS))] * 12)
    source = ImageMasks(path, classes=("a", "b", "c"), validation=2, test=3)
    first = {split: [example["image"][0, 0, 0] for example in source.examples(split)] for split in source.splits}
    assert first == {"train": [*range(1, 8)], "validation": [8, 9], "test": [10, 11, 12]}
    with pytest.raises(
        UserError, match=r"has 12 images with masks, and data\.validation 6 and data\.test 6 leave none"
    ):
        ImageMasks(path, classes=("a", "b", "c"), validation=6, test=6).examples("train")
    other = write(tmp_path / "b", [file_of(Image.fromarray(LABELS))] * 2)
    source = ImageMasks(path, classes=("a", "b", "c"), validation=2, test_path=other)
    assert [len(source.examples(split)) for split in source.splits] == [10, 2, 2]


def test_what_is_left_out_is_said_and_archives_are_read(tmp_path):
    path = write(tmp_path / "a", [file_of(Image.fromarray(LABELS))] * 2)
    (tmp_path / "a" / "masks" / "2.png").rename(tmp_path / "a" / "masks" / "3.png")
    (tmp_path / "a" / "notes.txt").write_text("x")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in (tmp_path / "a").rglob("*.*"):
            archive.write(file, file.relative_to(tmp_path / "a"))
    for place in (path, str(tmp_path / "a.zip")):
        source = ImageMasks(place, classes=("a", "b", "c"))
        assert len(source.examples("train")) == 1
        assert source.left_out("train") == (
            f"1 file of {place} without a mask, left out: images/2.png",
            f"1 file of {place} without an image, left out: masks/3.png",
            f"1 file of {place} of another kind, left out: notes.txt",
        )


@pytest.mark.parametrize(
    ("mask", "fields", "sentence"),
    [
        (Image.fromarray(LABELS[:4]), {}, "has 4 x 7 pixels and its image 5 x 7: give a mask of its size"),
        (Image.fromarray(TABLE[LABELS]), {}, "has pixels of the kind RGB: give a mask with one number a pixel"),
        (Image.fromarray(LABELS), {"masks": "labels"}, r"has no image in images/ with a mask of its name in labels/"),
    ],
)
def test_pairs_that_do_not_fit_are_named(mask, fields, sentence, tmp_path):
    source = ImageMasks(write(tmp_path / "a", [file_of(mask)]), classes=("a", "b", "c"), **fields)
    with pytest.raises(UserError, match=sentence):
        source.examples("train")[0]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"classes": ()}, "data.classes has 0 names"),
        ({"classes": ("a", "a")}, "data.classes has 2 names: give 1 to 255 different ones"),
        ({"classes": ("a", "b"), "values": (1,)}, "data.values has 1 values for 2 data.classes"),
        ({"classes": ("a", "b"), "values": (1, 1)}, "name a value twice"),
        ({"classes": ("a", "b"), "ignore": 1}, "name a value twice"),
        ({"classes": ("a", "b"), "ignore": (1, 2, 3)}, "use one kind for both"),
        ({"classes": ("a",), "values": ((0, 0, 256),)}, r"have the colour \(0, 0, 256\): use numbers from 0 to 255"),
    ],
)
def test_classes_that_do_not_fit_are_refused(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        ImageMasks("x", **fields)


def test_two_masks_of_one_name_are_refused(tmp_path):
    path = write(tmp_path / "a", [file_of(Image.fromarray(LABELS))])
    (tmp_path / "a" / "masks" / "1.tif").write_bytes(file_of(Image.fromarray(LABELS), "TIFF"))
    with pytest.raises(UserError, match=r"masks/1\.tif of .* has the name of masks/1\.png: remove one of them"):
        ImageMasks(path, classes=("a", "b", "c")).examples("train")
