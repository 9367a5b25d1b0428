"""Image folders and zips: labels, splits, decoding, use from threads and processes, and bad files."""

import io
import multiprocessing
import subprocess
import sys
import zipfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from research import config
from research.data.image_folder import ImageFolder
from research.errors import UserError


def picture(value: int, size: tuple[int, int] = (6, 4), kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (value, 0, 255 - value)).save(stream, kind)
    return stream.getvalue()


def noise(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(stream, kind)
    return stream.getvalue()


FILES = {
    **{f"train/cat/{index:02}.png": picture(index) for index in range(20)},
    **{f"train/dog/{index:02}.PNG": picture(100 + index) for index in range(10)},
    "train/cat/notes.txt": b"not an image",
    "__MACOSX/train/cat/._00.png": b"junk",
}


@pytest.fixture(params=["folder", "zip"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return build(tmp_path / "images", FILES, request.param)


def build(root: Path, files: dict[str, bytes], kind: str) -> str:
    if kind == "zip":
        with zipfile.ZipFile(f"{root}.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return f"{root}.zip"
    for name, content in files.items():
        folder = root / name if name.endswith("/") else (root / name).parent
        folder.mkdir(parents=True, exist_ok=True)
        if folder != root / name:
            (root / name).write_bytes(content)
    return str(root)


def test_labels_and_stratified_validation(path: str):
    source = ImageFolder(path, validation_fraction=0.2)
    assert source.splits == ("train", "validation")
    assert source.class_names == ("cat", "dog")
    values = {}
    for split in source.splits:
        examples = source.examples(split)
        for example in examples:
            image, label = example["image"], example["label"]
            assert image.shape == (4, 6, 3) and image.dtype == np.uint8
            value = int(image[0, 0, 0])
            assert (image == (value, 0, 255 - value)).all() and label == int(value >= 100)
        values[split] = [int(example["image"][0, 0, 0]) for example in examples]
    assert sum(value < 100 for value in values["validation"]) == 4  # a fifth of each class
    assert sum(value >= 100 for value in values["validation"]) == 2
    assert sorted(values["train"] + values["validation"]) == [*range(20), *range(100, 110)]
    again = ImageFolder(path, validation_fraction=0.2).examples("validation")
    assert [int(example["image"][0, 0, 0]) for example in again] == values["validation"]


def test_own_validation_and_test_paths(path: str, tmp_path: Path):
    other = build(tmp_path / "other", {"dog/1.png": picture(7)}, "folder")
    source = ImageFolder(path, validation_path=other, test_path=other)
    assert source.splits == ("train", "validation", "test")
    assert [len(source.examples(split)) for split in source.splits] == [30, 1, 1]
    assert source.examples("test")[0]["label"] == 1  # the training classes' number, though the only class there
    assert ImageFolder(path, validation_fraction=0).splits == ("train",)


def test_size_and_channels(path: str):
    image = ImageFolder(path, size=8, channels=1).examples("train")[0]["image"]
    assert image.shape == (8, 8, 1) and image.dtype == np.uint8
    assert np.ptp(image) == 0
    assert ImageFolder(path, size=8).examples("train")[0]["image"].shape == (8, 8, 3)


def read_value(argument: tuple) -> int:
    examples, index = argument
    return int(examples[index]["image"][0, 0, 0])


def test_threads_and_processes_read_the_same(path: str):
    examples = ImageFolder(path, validation_fraction=0).examples("train")
    jobs = [(examples, index) for index in range(len(examples))]
    expected = [read_value(job) for job in jobs]  # opens the archive here first
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read_value, jobs * 5)) == expected * 5
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(read_value, jobs, chunksize=15)) == expected


FORK = """
import multiprocessing, sys
from research.data.image_folder import ImageFolder
examples = ImageFolder(sys.argv[1], validation_fraction=0).examples("train")
expected = [example["image"].sum() for example in examples]  # opens the archive before the fork

def read_all(_):
    return all(examples[i]["image"].sum() == expected[i] for _ in range(100) for i in range(len(examples)))

with multiprocessing.get_context("fork").Pool(2) as pool:
    assert all(pool.map(read_all, range(2), chunksize=1))
"""


def test_forked_processes_do_not_share_a_file_position(tmp_path: Path):
    files = {f"cat/{index}.png": noise("PNG") for index in range(10)}  # more than fits into a read buffer
    path = build(tmp_path / "images", files, "zip")
    done = subprocess.run([sys.executable, "-c", FORK, path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": b"text"}, "no class folders with images"),
        ({"cat/1.png": picture(1), "stray.png": picture(2)}, "stray.png .* is not in a class folder"),
        ({"train/a/1.png": picture(1), "val/a/2.png": picture(2)}, "train/a/1.png .* is not in a class folder"),
        ({"cat/1.png": picture(1), "dog/notes.txt": b"text"}, "class folder 'dog' of .* has no image"),
        ({"cat/1.png": picture(1), "dog/": b""}, "class folder 'dog' of .* has no image"),
    ],
)
def test_bad_layout(tmp_path: Path, kind: str, files: dict[str, bytes], message: str):
    with pytest.raises(UserError, match=message):
        ImageFolder(build(tmp_path / "images", files, kind)).examples("train")


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("content", [b"", b"no picture", noise("JPEG")[:-2000], noise("PNG")[:-2000]])
def test_bad_image_is_named(tmp_path: Path, kind: str, content: bytes):
    path = build(tmp_path / "images", {"cat/good.png": picture(1), "cat/bad.png": content}, kind)
    examples = ImageFolder(path, validation_fraction=0).examples("train")
    with pytest.raises(UserError, match=r"cat/bad\.png cannot be read as an image") as error:
        [examples[index] for index in range(2)]
    assert path in str(error.value) and "\n" not in str(error.value)


def test_bad_paths_and_settings(tmp_path: Path):
    (tmp_path / "broken.zip").write_bytes(b"PK no archive")
    for path, message in ((tmp_path / "missing", "does not exist"), (tmp_path / "broken.zip", "as a zip archive")):
        with pytest.raises(UserError, match=message):
            ImageFolder(str(path)).examples("train")
    train = build(tmp_path / "train", {"cat/1.png": picture(1)}, "folder")
    test = build(tmp_path / "test", {"cow/1.png": picture(1)}, "folder")
    with pytest.raises(UserError, match=r"class 'cow' of .*test is not in .*train"):
        ImageFolder(train, test_path=test).examples("test")
    for fields in ({"channels": 2}, {"size": 0}, {"validation_fraction": 1.0}):
        with pytest.raises(UserError, match=next(iter(fields))):
            config.build(ImageFolder, {"path": train, **fields}, "data")
