"""Labelled images in tar and Parquet files, packed by other libraries: what is read, kept, left out and refused."""

import json
import os
from collections import Counter
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from research.data import image_table, labelled_images, shards, token_store
from research.data import parquet as tables
from research.data.image_folder import ImageFolder
from research.errors import UserError
from tests.data.test_shards import entry, pack, picture, record
from tests.labelled_images import STRUCT, write_table, write_tar

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(autouse=True)
def forgotten():
    """What a process has read once is read again by the next test, whose files have the same names."""
    forget()
    yield
    forget()


def forget() -> None:
    for read in (labelled_images.find_records, shards.read_shards, image_table.read_image_table):
        read.cache_clear()


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is kept, however little it is."""
    monkeypatch.setattr(token_store, "SMALL", 0)


def numbered(first: int, last: int) -> list[bytes]:
    return [picture(number) for number in range(first, last)]


def labelled(first: int, last: int, suffix: str = ".cls") -> dict[str, bytes]:
    """Images whose value is their number; those that a third divides are "dog"."""
    files = {}
    for number in range(first, last):
        name = "cat" if number % 3 else "dog"
        label = record(label=name) if suffix == ".json" else f"{name}\n".encode()
        files |= {f"{number:06}.png": picture(number), f"{number:06}{suffix}": label}
    return files


def contents(source: ImageFolder, split: str = "train") -> list[tuple[int, str]]:
    """Value of the pixels and name of the class of all examples."""
    return [(int(each["image"][0, 0, 0]), source.class_names[each["label"]]) for each in source.examples(split)]


def read(path: Path | str, **fields: Any) -> list[tuple[int, str]]:
    forget()
    return contents(ImageFolder(str(path), validation_fraction=0.0, **fields))


def refused(path: Path | str, message: str, **fields: Any) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(path, **fields)
    assert "\n" not in str(error.value)


EXPECTED = [(number, "cat" if number % 3 else "dog") for number in range(12)]


@pytest.mark.parametrize("kind", [".cls", ".json", "struct", "binary", "large_binary", "text", "categories"])
def test_a_folder_a_pattern_and_one_file(kind: str, tmp_path: Path):
    suffix = "tar" if kind.startswith(".") else "parquet"
    for part, (first, last) in enumerate(((0, 7), (7, 12))):
        path = tmp_path / f"train-{part}.{suffix}"
        if suffix == "tar":
            pack(path, labelled(first, last, kind))
            continue
        texts = [name for _, name in EXPECTED[first:last]]
        labels = pa.array(texts).dictionary_encode() if kind == "categories" else pa.array(texts)
        column = {"binary": pa.binary(), "large_binary": pa.large_binary()}.get(kind, STRUCT)
        if kind in ("text", "categories"):
            write_table(path, numbered(first, last), labels)
        else:
            write_table(
                path, numbered(first, last), [("cat", "dog").index(each) for each in texts], ["cat", "dog"], column
            )
    (tmp_path / "notes.txt").write_text("other")
    assert read(tmp_path) == read(tmp_path / f"train-*.{suffix}") == EXPECTED
    assert read(tmp_path / f"train-1.{suffix}") == EXPECTED[7:]
    source = ImageFolder(str(tmp_path), size=2, channels=1)
    assert source.class_names == ("cat", "dog") and source.examples("train")[0]["image"].shape == (2, 2, 1)
    assert ImageFolder(str(tmp_path)).examples("train").image_size(0) == (4, 6)
    held_out, rest = contents(source, "validation"), contents(source)
    assert Counter(name for _, name in held_out) == {"cat": 1, "dog": 1} and len(rest) == 10  # at least one a class


def test_what_the_datasets_library_wrote():
    """tests/fixtures/make_golden_images.py made it: three images, and class names in an order of their own."""
    path = FIXTURES / "golden_images.parquet"
    assert read(path) == [(10, "pear"), (20, "apple"), (30, "pear")]
    assert ImageFolder(str(path)).class_names == ("pear", "apple", "fig")  # the numbers of the data set


def test_numbers_are_in_their_order_and_a_negative_one_is_no_label(tmp_path: Path):
    files = {}
    for value, label in ((1, b"10"), (2, b"9\n"), (3, b"-1"), (4, b"9")):
        files |= {f"{value}.png": picture(value), f"{value}.cls": label}
    files |= {"5.png": picture(5), "5.json": record(cls=9, label=None), "6.png": picture(6), "6.json": record(cls=0)}
    source = ImageFolder(str(pack(tmp_path / "a.tar", files)), validation_fraction=0.0)
    assert source.class_names == ("0", "9", "10")
    assert [name for _, name in contents(source)] == ["10", "9", "9", "0"]
    assert source.left_out("train") == (f"2 images without a label are left out, such as in {tmp_path}/a.tar",)
    path = write_table(tmp_path / "a.parquet", numbered(0, 4), [10, -1, 9, None])
    assert read(path) == [(0, "10"), (2, "9")] and ImageFolder(str(path)).class_names == ("9", "10")


def test_columns_and_keys_by_their_names(tmp_path: Path):
    found = pa.table({"img": numbered(0, 3), "fine.label": ["b", "a", "b"]})
    parquet.write_table(found, tmp_path / "a.parquet")
    expected = [(0, "b"), (1, "a"), (2, "b")]
    assert read(tmp_path / "a.parquet", keys={"image": "img", "label": "fine.label"}) == expected
    files = {"1.png": picture(1), "1.json": record(label="a", breed="b"), "1.cls": b"c"}
    assert read(pack(tmp_path / "a.tar", files)) == [(1, "c")]
    assert read(tmp_path / "a.tar", keys={"image": "image", "label": "breed"}) == [(1, "b")]
    refused(tmp_path / "a.tar", "a.tar/1.json has no text or whole number 'x': set data.keys.label to the name of",
            keys={"image": "image", "label": "x"})  # fmt: skip
    refused(tmp_path / "a.tar", "data.keys has image: use image and label", keys={"image": "image"})
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.png").write_bytes(picture(1))
    refused(tmp_path / "photos", "has no columns: leave data.keys out", keys={"image": "img", "label": "label"})


def test_what_is_left_out_is_counted(tmp_path: Path):
    files = {**labelled(0, 3), "3.png": picture(3), "4.cls": b"cat", "5.json": record(label="dog")}
    source = ImageFolder(str(pack(tmp_path / "a.tar", files, entry("6.png", type=b"2", linkname="0"))))
    assert source.left_out("train") == (
        f"1 images without a label are left out, such as in {tmp_path}/a.tar",
        f"2 labels without an image are left out, such as in {tmp_path}/a.tar",
        f"1 links and other things that are not files are left out, such as in {tmp_path}/a.tar",
    )
    images = [picture(0), None, {"bytes": None, "path": "/etc/passwd"}, picture(3)]
    images = [each if isinstance(each, dict | None) else {"bytes": each, "path": None} for each in images]
    found = pa.table({"image": pa.array(images, STRUCT), "label": [0, 1, 0, -1]})
    parquet.write_table(found, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [(0, "0")]
    assert ImageFolder(str(tmp_path / "a.parquet")).left_out("train") == (
        f"1 images without a label are left out, such as in {tmp_path}/a.parquet",
        f"2 rows without an image are left out, such as in {tmp_path}/a.parquet",
    )


def test_own_splits_and_a_class_that_training_lacks(tmp_path: Path):
    train, other = pack(tmp_path / "a.tar", labelled(0, 6)), tmp_path / "b.parquet"
    source = ImageFolder(str(train), str(other), str(other))
    write_table(other, numbered(20, 22), [1, 1], ["cow", "dog"])  # another order, and a class without images
    assert contents(source, "validation") == contents(source, "test") == [(20, "dog"), (21, "dog")]
    assert len(source.examples("train")) == 6
    forget()
    write_table(other, numbered(20, 22), [1, 0], ["cow", "dog"])
    with pytest.raises(UserError, match=r"class 'cow' of .*b.parquet is not in .*a.tar: rename or remove it"):
        source.examples("validation")


@pytest.mark.parametrize("suffix", ["tar", "parquet"])
def test_files_are_read_once_and_again_when_they_change(suffix: str, tmp_path: Path, kept: None, capsys):
    def write(first: int, last: int) -> None:
        if suffix == "tar":
            pack(tmp_path / "a.tar", labelled(first, last))
        else:
            write_table(
                tmp_path / "a.parquet", numbered(first, last), ["cat" if n % 3 else "dog" for n in range(first, last)]
            )

    write(0, 6)
    path = tmp_path / f"a.{suffix}"
    assert read(path) == EXPECTED[:6] and "kept in" in capsys.readouterr().out
    assert read(path) == EXPECTED[:6] == read(tmp_path) and "kept in" not in capsys.readouterr().out
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        path.name,
        f"{path.name}.{'index' if suffix == 'tar' else 'images'}",
    ]
    examples = ImageFolder(str(path)).examples("train")
    examples.fingerprint()
    sent = ForkingPickler.dumps(examples)
    assert len(sent) < 6000 and not any(
        part in bytes(sent) for part in (picture(1), b"_ends", b"_places")
    )  # a worker process maps the same files
    assert ForkingPickler.loads(sent)[0]["image"][0, 0, 0] == 0
    write(3, 9)
    assert read(path) == EXPECTED[3:9]
    (place,) = tmp_path.glob("*/*/size")
    place.write_bytes(np.full(6, 10**7, np.int64).tobytes())  # spoiled: made anew, and not believed
    assert read(path) == EXPECTED[3:9]


def test_a_copy_that_was_interrupted_is_completed(tmp_path: Path, kept: None, monkeypatch: pytest.MonkeyPatch):
    """Whatever chunk the process ends in, nothing half is taken for whole and the images are the same."""
    monkeypatch.setattr(image_table, "CHUNK", 1)
    monkeypatch.setattr(image_table, "ROWS", 1)
    monkeypatch.setattr(token_store, "SAVE_EVERY", 2)
    path = write_table(tmp_path / "a.parquet", numbered(0, 12), [0, 1] * 6, ["a", "b"])
    whole, encoded = read(path), image_table._encoded
    stored = {
        each.name: each.read_bytes() for each in tmp_path.glob("a.parquet.images/*/*") if each.name != "store.json"
    }
    for last in (0, 3, 7, 11):
        for each in tmp_path.glob("*.images/*/store.json"):
            each.unlink()

        def killed(chunk, last=last):
            if chunk.row > last:
                raise KeyboardInterrupt
            return encoded(chunk)

        monkeypatch.setattr(image_table, "_encoded", killed)
        if last < 11:
            with pytest.raises(KeyboardInterrupt):
                read(path)
            assert not [*tmp_path.glob("*.images/*/store.json")]
        monkeypatch.setattr(image_table, "_encoded", encoded)
        assert read(path) == whole
        again = {each.name: each.read_bytes() for each in tmp_path.glob("a.parquet.images/*/*")}
        assert {name: again[name] for name in stored} == stored


def test_a_store_in_another_folder(tmp_path: Path, kept: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(token_store.CACHE_VARIABLE, str(tmp_path / "cache"))
    path = write_table(tmp_path / "a.parquet", numbered(0, 12), [name for _, name in EXPECTED])
    assert read(path) == EXPECTED
    assert [each.suffix for each in (tmp_path / "cache").iterdir()] == [".images"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.parquet", "cache"]


@pytest.mark.parametrize("suffix", ["tar", "parquet"])
def test_a_fingerprint_tells_other_data_wherever_they_lie(suffix: str, tmp_path: Path):
    def digest(folder: str, images: list[bytes], labels: list[str]) -> str:
        forget()
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / f"a.{suffix}"
        if suffix == "parquet":
            write_table(path, images, labels)
        else:
            write_tar(path, images, labels)
        return ImageFolder(str(path), validation_fraction=0.0).fingerprint("train")

    first = digest("a", numbered(0, 4), ["x", "y", "x", "y"])
    assert digest("b", numbered(0, 4), ["x", "y", "x", "y"]) == first
    others = {
        digest("c", numbered(1, 5), ["x", "y", "x", "y"]),
        digest("d", numbered(0, 4), ["x", "x", "y", "y"]),
        digest("e", numbered(0, 4), ["x", "z", "x", "z"]),
    }
    assert len(others) == 3 and first not in others
    many = [b"one file"] * 200
    of_one_size, of_another = [b"two file", *many[1:]], [many[0], b"a longer file", *many[2:]]  # not one that is read
    found = {digest(str(turn), each, ["x"] * 200) for turn, each in enumerate((many, of_one_size, of_another))}
    assert len(found) == 3


def test_any_damage_is_one_sentence(tmp_path: Path):
    """A Parquet file cut off anywhere, and with its bytes spoiled: refused or read, never anything else."""
    whole = write_table(tmp_path / "whole.parquet", numbered(0, 30), [0, 1] * 15, ["a", "b"]).read_bytes()
    path = tmp_path / "a.parquet"
    for length in {*range(0, len(whole), max(1, len(whole) // 40)), len(whole) - 1}:
        path.write_bytes(whole[:length])
        refused(path, r"a.parquet cannot be read as Parquet \(.*\): restore it, or write it anew")
    random, refusals = np.random.default_rng(0), 0
    for _ in range(150):
        content = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            content[place] = random.integers(256)
        path.write_bytes(content)
        try:
            read(path)
        except UserError as error:
            refusals += 1
            assert "\n" not in str(error)
    assert refusals > 20


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [b"x"]}, r"a.parquet has no column 'label' \(it has 'image'\): set data.keys.label to one of them"),
        ({"label": [1]}, r"a.parquet has no column 'image' \(it has 'label'\): set data.keys.image to one of them"),
        ({"image": ["x"], "label": [1]}, r"'image' of .*a.parquet is string and not the bytes of images"),
        ({"image": [{"path": "x"}], "label": [1]}, r"'image' of .* is struct<path: string> and not the bytes"),
        ({"image": [b"x"], "label": [0.5]}, r"'label' of .* is double and neither numbers nor texts: set data.keys"),
        ({"image": [b"x"], "label": [["a"]]}, r"'label' of .* is list<.*> and neither numbers nor texts"),
        ({"image": [b"x"], "label": ["a\0"]}, r"the label in row 0 of .*a.parquet has a NUL character"),
        ({"image": [b"no image"], "label": [1]}, r"a.parquet/row 0 cannot be read as an image \(.*\): repair or"),
        ({"image": [b""], "label": [1]}, r"a.parquet/row 0 cannot be read as an image \(it is empty\)"),
        (
            {"image": pa.array([], pa.binary()), "label": pa.array([], pa.int8())},
            r"a.parquet has no images with labels",
        ),
        (
            {"image": pa.array([None], pa.binary()), "label": [1]},
            r"has no images with labels \(1 rows without an image",
        ),
    ],
)
def test_tables_that_do_not_fit(columns: dict[str, Any], message: str, tmp_path: Path):
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", message)


@pytest.mark.parametrize(
    ("metadata", "label", "message"),
    [
        ({"info": {"features": {"label": {"names": ["a", "b"]}}}}, 2, r"row 1 of .* has the label 2, and there are 2"),
        ({"info": {"features": {"label": {"names": ["a", 1]}}}}, 0, r"the class names of 'label' in .* are not a list"),
        ({"info": {"features": {"label": {"names": ["a", "a"]}}}}, 0, r"class names that are empty or equal: rename"),
        ({"info": {"features": {"label": {"names": ["a\0"]}}}}, 0, r"a class name of .* has a NUL character"),
        (b"{", 0, r"has metadata 'huggingface' that are not JSON \(.*\): write it anew"),
        (b"[" * 100_000, 0, r"has metadata 'huggingface' that are not JSON"),
    ],
)
def test_class_names_that_do_not_fit(metadata: Any, label: int, message: str, tmp_path: Path):
    found = pa.table({"image": numbered(0, 2), "label": [0, label]})
    content = metadata if isinstance(metadata, bytes) else json.dumps(metadata)
    parquet.write_table(found.replace_schema_metadata({"huggingface": content}), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", message)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"1.png": b"", "1.json": record(label=True)}, r"has no text or whole number 'label' or 'cls': set data.keys"),
        ({"1.png": b"", "1.json": record(label=0.5)}, r"a.tar/1.json has no text or whole number 'label' or 'cls'"),
        ({"1.png": b"", "1.json": record(caption="a")}, r"a.tar/1.json has no text or whole number"),
        ({"1.png": b"", "1.cls": b"\xff"}, r"a.tar/1.cls .*UTF-8"),
        ({"1.png": b"", "1.jpg": b"", "1.cls": b"1"}, r"two images for one label, 1.png and 1.jpg"),
        ({"1.png": b"no image", "1.cls": b"1"}, r"a.tar/1.png cannot be read as an image"),
        ({"1.png": b"", "1.txt": b"1"}, r"a.tar has no images with labels \(1 images without a label .*: put N.cls or"),
    ],
)
def test_shards_that_do_not_fit(files: dict[str, bytes], message: str, tmp_path: Path):
    refused(pack(tmp_path / "a.tar", files), message)


def test_paths_that_are_of_no_kind_or_of_two(tmp_path: Path):
    write_table(tmp_path / "a.parquet", numbered(0, 2), [0, 1], ["a", "b"])
    write_table(tmp_path / "b.parquet", numbered(0, 2), [0, 1], ["a", "c"])
    refused(tmp_path, r"b.parquet has other class names than .*a.parquet: give them in a path of their own")
    pack(tmp_path / "a.tar", labelled(0, 2))
    refused(tmp_path, r"has .tar and .parquet files: give a pattern of one kind, such as \*.tar")
    refused(tmp_path / "a*", r"is a pattern that does not end with .tar or .parquet: let it end with one")
    refused(tmp_path / "x-*.parquet", "has no .parquet files: give a folder of them, one, or a pattern")
    refused(tmp_path / "a.tar.gz", "is compressed, so that no image in it can be read by itself")
    os.truncate(tmp_path / "a.tar", 700)
    refused(tmp_path / "a.tar", "a.tar cannot be read as a tar file")
    os.truncate(tmp_path / "a.parquet", 0)
    refused(tmp_path / "a.parquet", "a.parquet cannot be read as Parquet")


def test_a_value_that_stands_once_for_many_rows_does_not_fill_memory_or_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One image of 64 KiB in a dictionary, which 500 rows have: 32 MB in a file of some kilobytes."""
    path = write_table(tmp_path / "a.parquet", [bytes(2**16)] * 500, [0] * 500, ["a"])
    assert path.stat().st_size < 20_000
    batches, before = [], image_table._rows_at_once
    monkeypatch.setattr(image_table, "_rows_at_once", lambda found: batches.append(before(found)) or batches[-1])
    monkeypatch.setattr(image_table, "BATCH", 2**20)
    monkeypatch.setattr(tables, "SMALLEST_LIMIT", 2**22)
    refused(path, r"a.parquet holds more than 4,194,304 bytes of images: pack it anew")
    assert 10 < batches[0] < 16  # which cannot take more than BATCH together
    monkeypatch.setattr(tables, "SMALLEST_LIMIT", 2**15)
    monkeypatch.setattr(tables, "EXPANSION", 2)
    refused(path, r"a.parquet holds [\d,]+ bytes, more than one of its size would: write it anew")


def test_an_image_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(image_table, "LARGEST", 100)
    path = write_table(tmp_path / "a.parquet", [bytes(101)], [0])
    refused(path, r"a.parquet/row 0 has 101 bytes, and at most [\d,]+ are read: make it smaller")
