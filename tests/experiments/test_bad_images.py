"""Images that do not fit end with exit code 2 and one sentence that says what to change, or are converted."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from research.errors import UserError
from research.runs.predictor import Predictor

CONFIG = """
from ml_collections import ConfigDict
from configs.vision import digits
def get_config(arg=""):
    config = digits.get_config("tiny")
    config.data = ConfigDict({"name": "image_folder", "path": "PATH", "validation_fraction": 0.2})
    config.task.augmentation = {}
    return config
"""


def write_images(folder: Path, size: tuple[int, int] = (8, 8), labels: tuple[str, ...] = ("cat", "dog")) -> Path:
    """Twelve images of noise for each class."""
    for label in labels:
        (folder / label).mkdir(parents=True)
        for number in range(12):
            pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def config_of(images: Path) -> str:
    path = images.parent / "config.py"
    path.write_text(CONFIG.replace("PATH", str(images)))
    return f"--config={path}"


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory) -> Path:
    """The folder of a run on images of 8 x 8 pixels and three channels, beside its images."""
    folder = tmp_path_factory.mktemp("bad_images")
    done = run("train", config_of(write_images(folder / "images")), f"--workdir={folder / 'run'}")
    assert done.code == 0, done.stderr
    return folder / "run"


@pytest.fixture
def fails(run, tmp_path):
    """`fails(words, command, *arguments)`: the command must end with one error line that contains the words."""

    def check(words: str, command: str, *arguments: str, workdir: Path | None = None) -> None:
        code, _, stderr = run(command, *arguments, f"--workdir={workdir or tmp_path / 'run'}")
        lines = stderr.strip().splitlines()
        assert code == 2, stderr
        assert len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0], stderr

    return check


def test_files_of_any_channels_and_size_are_answered(trained, run, tmp_path):
    files = []
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"):
        files.append(tmp_path / f"{mode[0]}{len(files)}.{'tif' if mode == 'CMYK' else 'png'}")
        Image.new(mode, (5, 7)).save(files[-1])
    Image.new("RGB", (1, 1)).save(files[0])
    done = run("predict", *map(str, files), f"--workdir={trained}", "--format=jsonl")
    assert done.code == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == 8 and all(answer["label"] in ("cat", "dog") for answer in answers)


def test_pixels_are_taken_in_the_shape_of_the_data_alone(trained):
    assert Predictor.open(trained).answer([np.zeros((8, 8, 3), np.uint8)])[0]["label"] in ("cat", "dog")
    for shape, dtype in (((8, 8, 1), np.uint8), ((8, 8, 4), np.uint8), ((9, 8, 3), np.uint8), ((8, 8, 3), np.float64)):
        with pytest.raises(UserError, match=rf"{np.dtype(dtype)} \[{shape[0]}, .* takes uint8 \[8, 8, 3\]: convert it"):
            Predictor.open(trained).answer([np.zeros(shape, dtype)])


def test_files_that_are_no_images(trained, fails, tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, "JPEG")
    (tmp_path / "half.jpg").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    fails("half.jpg cannot be read as an image", "predict", str(tmp_path / "half.jpg"), workdir=trained)
    fails("nothing.jpg cannot be read (No such file", "predict", str(tmp_path / "nothing.jpg"), workdir=trained)
    images = write_images(tmp_path / "images")
    for file in (images / "cat").iterdir():
        file.write_bytes(buffer.getvalue()[:-200])
        file.rename(file.with_suffix(".jpg"))
    fails(".jpg cannot be read as an image", "train", config_of(images))


@pytest.mark.parametrize("size", [(9, 8), (1, 1)])
def test_sizes_that_the_patches_do_not_divide(size, fails, tmp_path):
    words = f"{size[0]} x {size[1]} pixels"
    fails(words, "train", config_of(write_images(tmp_path / "images", size)))


def test_one_image_of_another_size(fails, run, tmp_path):
    images = write_images(tmp_path / "images")
    for file in (images / "dog").iterdir():
        Image.new("RGB", (1, 1)).save(file)
    fails("set data.size to resize them", "train", config_of(images))
    resized = run("train", config_of(images), "--config.data.size=8", f"--workdir={tmp_path / 'resized'}")
    assert resized.code == 0, resized.stderr


def test_a_class_without_images(fails, tmp_path):
    images = write_images(tmp_path / "images")
    (images / "emu").mkdir()
    fails("class folder 'emu' of", "train", config_of(images))


def test_more_classes_than_the_head(trained, fails, tmp_path):
    config = config_of(write_images(tmp_path / "images", labels=("cat", "dog", "emu")))
    source = Path(config.removeprefix("--config="))
    source.write_text(f"{source.read_text()[:-18]}    config.transfer = {{'source': '{trained}', 'new': ()}}\n"
                      "    return config\n")  # fmt: skip
    fails("(2,) in", "train", config)
    fails("or add a pattern for it to transfer.new", "train", config)


def test_other_classes_than_in_training(trained, fails, tmp_path):
    copy = shutil.copytree(trained.parent, tmp_path / "copy")
    config = copy / "run" / "config.json"
    config.write_text(config.read_text().replace(str(trained.parent), str(copy)))
    shutil.move(copy / "images" / "dog", copy / "images" / "ant")
    words = "the data have 2 classes, not 2 (the first that differ: 'ant', not 'cat'), unlike when"
    fails(words, "evaluate", workdir=copy / "run")
    (copy / "run" / "results.json").unlink()
    fails(words, "train", config_of(copy / "images"), workdir=copy / "run")
