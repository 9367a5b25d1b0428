"""scikit-learn's handwritten digits: 1,797 scans of 8x8 pixels (the test part of UCI "Optical Recognition")."""

import functools
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distribution
from typing import Annotated, ClassVar

import numpy as np

from research.data.source import Example, Source, check_split
from research.ranges import Range

RANGES = {"train": slice(0, 1257), "validation": slice(1257, 1437), "test": slice(1437, 1797)}


@dataclass(frozen=True)
class Digits(Source):
    """{"image": uint8 [8, 8, 1], "label": int}, in the order of the file.

    The last 360 scans are the test split, the 180 before them validation: other writers than those trained on.
    train_size: training scans used, the first of the file; all 1,257 unless given.
    """

    train_size: Annotated[int, Range(1, RANGES["train"].stop)] | None = None

    splits = tuple(RANGES)
    class_names: ClassVar[tuple[str, ...]] = tuple("0123456789")

    def examples(self, split: str) -> Sequence[Example]:
        check_split(split, self.splits)
        images, labels = _scans()
        pairs = zip(images[RANGES[split]], labels[RANGES[split]], strict=True)
        examples = [{"image": image, "label": int(label)} for image, label in pairs]
        return examples[: self.train_size] if split == "train" else examples


@functools.cache
def _scans() -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [1797, 8, 8, 1], scaled from 0..16 to 0..255, and labels [1797]."""
    # To import the package would take longer than a short training.
    path = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    with gzip.open(str(path)) as file:
        rows = np.loadtxt(file, delimiter=",")
    return np.rint(rows[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1), rows[:, -1].astype(int)
