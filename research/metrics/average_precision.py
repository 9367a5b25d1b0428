"""Average precision and recall of detected boxes by COCO's definition (Lin et al. 2014), as pycocotools 2.0 has it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

IOUS = np.linspace(0.5, 0.95, 10)
"""What a detection and a box have to share of their union, at least, to match."""
RECALLS = np.linspace(0, 1, 101)
MOST = (1, 10, 100)
"""Detections of an image and class that count, those of the highest scores."""
AREAS = {"": (0, 1e10), "_small": (0, 32**2), "_medium": (32**2, 96**2), "_large": (96**2, 1e10)}
"""Least and largest area of a box in pixels, both included."""
NONE = -1.0
"""A score where nothing is to be found, as of a size that no box has."""


@dataclasses.dataclass(frozen=True)
class Boxes:
    """The boxes of an image: `boxes` [n, 4], left, top, right, bottom, and `classes` [n].

    What is true has `areas`, those of the boxes unless given (COCO has those of its masks), and `crowd`, whether a box
    stands for many things: detections within it count neither for nor against. What was detected has `scores`.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray | None = None
    areas: np.ndarray | None = None
    crowd: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class _Matches:
    """The detections of one image and class, best first: `scores` [d], `right` and `ignored` [ious, d], and how many
    boxes were to be found."""

    scores: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    wanted: int


def overlaps(found: np.ndarray, true: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [d, 4] and [t, 4], float64 [d, t]; of a crowd over the detection's area."""
    low = np.maximum(found[:, None, :2], true[None, :, :2])
    high = np.minimum(found[:, None, 2:], true[None, :, 2:])
    both = np.maximum(high - low, 0).prod(axis=-1)
    own, theirs = areas(found)[:, None], areas(true)[None]
    union = np.where(crowd[None], own, own + theirs - both)
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def areas(boxes: np.ndarray) -> np.ndarray:
    """Areas of boxes [n, 4], 0 for those that end before they begin."""
    return np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=-1)


class AveragePrecisionScorer:
    """`ap`, the mean over IoUs of 0.5 to 0.95 and over classes; `ap50` and `ap75`; `ap_small`, `ap_medium`, `ap_large`;
    `ar_1`, `ar_10`, `ar_100`, the recall with so many detections an image; and `ap/CLASS`. -1 where there are no boxes.

    boxes: gives what is true of an example and what its answer detected.
    """

    names: Sequence[str] = ("ap", "ap50", "ap75", *(f"ap{size}" for size in AREAS if size), *(f"ar_{n}" for n in MOST))

    def __init__(
        self,
        class_names: Sequence[str],
        boxes: Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[Boxes, Boxes]],
    ):
        self._classes, self._boxes = tuple(class_names), boxes
        self._matches: dict[tuple[int, str], list[_Matches]] = {}

    def add(self, example: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Matches the detections of one image with its boxes; only which ones matched is kept."""
        true, found = self._boxes(example, answer)
        for number in {*np.unique(true.classes).tolist(), *np.unique(found.classes).tolist()}:
            for size, limits in AREAS.items():
                matches = _matched(_of_class(true, number), _of_class(found, number), limits)
                self._matches.setdefault((int(number), size), []).append(matches)

    def result(self) -> dict[str, float]:
        """The scores."""
        precision, recall = {}, {}
        for key, matches in self._matches.items():
            for most in MOST if not key[1] else MOST[-1:]:
                precision[(*key, most)], recall[(*key, most)] = _curve(matches, most)
        by_class = [precision.get((number, "", MOST[-1])) for number in range(len(self._classes))]
        scores = {"ap": _mean(by_class)}
        for name, place in (("ap50", 0), ("ap75", 5)):
            scores[name] = _mean([None if curve is None else curve[place] for curve in by_class])
        for size in [size for size in AREAS if size]:
            scores[f"ap{size}"] = _mean([curve for key, curve in precision.items() if key[1] == size])
        for most in MOST:
            scores[f"ar_{most}"] = _mean([value for key, value in recall.items() if key[1:] == ("", most)])
        per_class = {f"ap/{name}": _mean([curve]) for name, curve in zip(self._classes, by_class, strict=True)}
        return scores | per_class

    def signatures(self) -> dict[str, str]:
        """What exactly the scores are."""
        common = "COCO's definition (pycocotools 2.0), 101 recall points, 100 detections an image and class"
        return {"ap": f"{common}, IoU 0.50:0.05:0.95", "ap50": f"{common}, IoU 0.50", "ap75": f"{common}, IoU 0.75"}


def _of_class(boxes: Boxes, number: int) -> Boxes:
    mine = boxes.classes == number
    rest = (None if part is None else part[mine] for part in (boxes.scores, boxes.areas, boxes.crowd))
    return Boxes(boxes.boxes[mine], boxes.classes[mine], *rest)


def _matched(true: Boxes, found: Boxes, limits: tuple[float, float]) -> _Matches:
    """Each detection, best first, takes the box with which it shares most, of those that none took before.

    Boxes that are to be found go before those to be ignored, which are crowds and those of other sizes.
    """
    assert found.scores is not None
    crowd = np.zeros(len(true.boxes), bool) if true.crowd is None else true.crowd.astype(bool)
    sizes = areas(true.boxes) if true.areas is None else true.areas
    ignored = crowd | (sizes < limits[0]) | (sizes > limits[1])
    order = np.argsort(ignored, kind="stable")
    best = np.argsort(-found.scores, kind="stable")[: MOST[-1]]
    boxes = np.asarray(found.boxes, np.float64).reshape(-1, 4)[best]
    shared = overlaps(boxes, np.asarray(true.boxes, np.float64).reshape(-1, 4)[order], crowd[order])
    ignored, crowd = ignored[order], crowd[order]
    partner = np.full((len(IOUS), len(boxes)), -1)
    for row, least in enumerate(IOUS):
        free = np.ones(len(ignored), bool)
        for place, mine in enumerate(shared):
            # Of equal ones the last, as pycocotools has it.
            for group in (~ignored, ignored):
                fitting = np.flatnonzero(group & (free | crowd) & (mine >= min(least, 1 - 1e-10)))
                if len(fitting):
                    partner[row, place] = fitting[mine[fitting] == mine[fitting].max()][-1]
                    free[partner[row, place]] = False
                    break
    right = partner >= 0
    outside = (areas(boxes) < limits[0]) | (areas(boxes) > limits[1])
    apart = np.where(right, np.append(ignored, False)[partner], outside[None])
    return _Matches(found.scores[best], right, apart, int((~ignored).sum()))


def _curve(matches: Sequence[_Matches], most: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Precision at each recall, [ious, recalls], and the recall of all detections, [ious]; None without boxes."""
    wanted = sum(each.wanted for each in matches)
    if not wanted:
        return None, None
    order = np.argsort(-np.concatenate([each.scores[:most] for each in matches]), kind="stable")
    right, ignored = (
        np.concatenate([getattr(each, name)[:, :most] for each in matches], axis=1)[:, order]
        for name in ("right", "ignored")
    )
    true, false = (np.cumsum(side & ~ignored, axis=1) for side in (right, ~right))
    precisions, recalls = np.zeros((len(IOUS), len(RECALLS))), np.zeros(len(IOUS))
    for row, (hits, misses) in enumerate(zip(true, false, strict=True)):
        if not len(hits):
            continue
        recall = hits / wanted
        precision = hits / (hits + misses + np.spacing(1))
        precision = np.maximum.accumulate(precision[::-1])[::-1]  # the best of this recall and all higher ones
        places = np.searchsorted(recall, RECALLS)
        reached = places < len(recall)
        precisions[row, reached] = precision[places[reached]]
        recalls[row] = recall[-1]
    return precisions, recalls


def _mean(parts: Sequence[np.ndarray | None]) -> float:
    there = [part for part in parts if part is not None]
    return float(np.mean(there)) if there else NONE
