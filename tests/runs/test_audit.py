"""The audit lists all that is odd of a made-up folder and of made-up pairs, counted by hand."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of images: one repeated in training, one in both splits, one that does not decode."""
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)) for _ in range(6)]
    for split, names in {"train": {"cat": [0, 1, 1], "dog": [2, 3]}, "test": {"cat": [0, 4]}}.items():
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for place, number in enumerate(names.get(name, [])):
                images[number].save(tmp_path / split / name / f"{place}.png")
    images[5].save(tmp_path / "test/dog/cut.png")
    content = (tmp_path / "test/dog/cut.png").read_bytes()
    (tmp_path / "test/dog/cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "train/cat/notes.txt").write_text("words")
    return tmp_path


def test_images(pictures: Path, run):
    arguments = [
        "--config=configs/vision/cifar10.py:tiny",
        f"--config.data.path={pictures}/train",
        f"--config.data.validation_path={pictures}/test",
        "--config.data.test_path=none",
    ]
    done = run("inspect", *arguments, "--audit")
    assert done.code == 1, done.stderr
    assert "train: 5 examples (cat: 3, dog: 2)" in done.stdout
    assert "repeated within train: 1 examples (train 2)" in done.stdout
    assert "in train and in validation: 1 examples (validation 0)" in done.stdout
    assert "cut.png" in done.stdout and "notes.txt" in done.stdout
    lines = [json.loads(line) for line in run("inspect", *arguments, "--audit", "--format=jsonl").stdout.splitlines()]
    assert {"what": "repeated within train", "examples": [["train", 2]]} in lines


def test_pairs(tmp_path: Path, run):
    sides = {
        "en": [*(f"a man with {number} dogs" for number in range(30)), "a man with 3 dogs", "", "long " * 99, "日本"],
        "de": [*(f"ein mann mit {number} hunden" for number in range(30)), "ein mann mit 3 hunden", "x", "kurz", "x"],
    }
    for split in ("train", "valid", "test.2016"):
        for language, lines in sides.items():
            kept = lines if split == "valid" else lines[:30] if split == "train" else [f"{split} {lines[0]}"]
            (tmp_path / f"{split}.{language}.gz").write_bytes(gzip.compress("\n".join(kept).encode()))
    done = run("inspect", f"--config=configs/translation/multi30k.py:folder={tmp_path},tiny", "--audit")
    assert done.code == 1, done.stderr
    assert "train: 30 examples" in done.stdout and "validation: 34 examples" in done.stdout
    assert "in train and in validation: 31 examples (validation 0, validation 1" in done.stdout
    assert "and 11 more" in done.stdout
    assert "source is empty: 1 examples (validation 31)" in done.stdout
    assert (
        "source is longer than " in done.stdout
        and "source has unknown tokens: 3 examples (validation 32, validation 33, test 0)" in done.stdout
    )


def test_nothing_odd_in_the_shipped_phrasebook(run):
    done = run("inspect", "--config=configs/translation/phrasebook.py:tiny", "--audit")
    assert "examples" in done.stdout and done.code in (0, 1)
