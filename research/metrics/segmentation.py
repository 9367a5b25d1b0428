"""Scores of segmented images, from whole numbers: intersection over union, pixel accuracy, Dice.

The same masks score differently between tools: by what is averaged first, by what happens to classes that an image or
the whole set lacks, and by which pixels count. `SIGNATURES` says what is done here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from research.errors import UserError

Masks = tuple[np.ndarray, np.ndarray]
"""The true classes of an image's pixels and those that were answered, integers [height, width]."""

SIGNATURES = {
    "miou": "one confusion matrix over the set, mean over the classes that are in truth or answers",
    "pixel_accuracy": "right pixels over all pixels that count",
    "mean_accuracy": "right pixels over true ones, mean over the classes that are in the truth",
    "dice_per_set": "one confusion matrix over the set, mean over the classes that are in truth or answers",
    "dice_per_case": "of each image and class that is in its truth or answer, mean over images, then over classes",
}


def confusion(truth: np.ndarray, answer: np.ndarray, num_classes: int, ignored: int) -> np.ndarray:
    """How many pixels of each true class (row) were answered as each class (column), int64 [classes, classes].

    Pixels whose truth is `ignored` do not count.
    """
    counts = truth != ignored
    pairs = truth[counts].astype(np.int64) * num_classes + answer[counts]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


class SegmentationScorer:
    """The scores of `SIGNATURES` over all images, and `iou/CLASS` and `dice/CLASS` of each class of the set.

    masks: gives truth and answer of an example and its answer. ignored: the class of pixels that do not count. Counts
    are whole numbers, so that neither the order of images nor their number changes a digit.
    """

    names: Sequence[str] = tuple(SIGNATURES)

    def __init__(
        self,
        class_names: Sequence[str],
        masks: Callable[[Mapping[str, Any], Mapping[str, Any]], Masks],
        ignored: int,
    ):
        self._classes, self._masks, self._ignored = tuple(class_names), masks, ignored
        self._total = np.zeros((len(self._classes),) * 2, np.int64)
        self._cases: list[np.ndarray] = []

    def add(self, example: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Counts the pixels of one image."""
        counts = confusion(*self._masks(example, answer), len(self._classes), self._ignored)
        self._total += counts
        self._cases.append(_overlap(counts))

    def result(self) -> dict[str, float]:
        """The scores. Raises UserError where no pixel counted."""
        if not self._total.any():
            raise UserError("there are no pixels to score: give at least one image with a mask that is not all ignored")
        both, sizes = _overlap(self._total)
        true = self._total.sum(axis=1)
        iou = {name: int(b) / int(s - b) for name, b, s in zip(self._classes, both, sizes, strict=True) if s}
        dice = {name: 2 * int(b) / int(s) for name, b, s in zip(self._classes, both, sizes, strict=True) if s}
        cases = [
            _mean([2 * int(case[0, place]) / int(case[1, place]) for case in self._cases if case[1, place]])
            for place in np.flatnonzero(sizes)
        ]
        return {
            "miou": _mean([*iou.values()]),
            "pixel_accuracy": int(both.sum()) / int(true.sum()),
            "mean_accuracy": _mean([int(b) / int(t) for b, t in zip(both, true, strict=True) if t]),
            "dice_per_set": _mean([*dice.values()]),
            "dice_per_case": _mean(cases),
            **{f"iou/{name}": value for name, value in iou.items()},
            **{f"dice/{name}": value for name, value in dice.items()},
        }

    def signatures(self) -> dict[str, str]:
        """What exactly each score is."""
        return dict(SIGNATURES)


def _overlap(counts: np.ndarray) -> np.ndarray:
    """Of each class the pixels that both sides have, and the sum of those of either side, int64 [2, classes]."""
    return np.stack([np.diag(counts), counts.sum(axis=0) + counts.sum(axis=1)])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
