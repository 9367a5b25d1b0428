"""Average precision of detected boxes by COCO's definition (Lin et al. 2014), computed by pycocotools."""

import contextlib
import dataclasses
import importlib.metadata
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from research.errors import UserError

STATISTICS = {"ap": 0, "ap50": 1, "ap75": 2, "ap_small": 3, "ap_medium": 4, "ap_large": 5}
"""Where pycocotools has them in its summary."""
AGNOSTIC = "ap50_agnostic"


@dataclasses.dataclass(frozen=True)
class Boxes:
    """The boxes of an image: `boxes` [n, 4], left, top, right, bottom in pixels, and `classes` [n].

    What is true has `areas`, those of the boxes unless given (COCO has those of its masks), and `crowd`, whether a box
    stands for many things: detections within it count neither for nor against. What was detected has `scores`.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray | None = None
    areas: np.ndarray | None = None
    crowd: np.ndarray | None = None


class AveragePrecisionScorer:
    """`ap`, the mean over IoUs of 0.5 to 0.95 and over classes; `ap50` and `ap75`; `ap_small`, `ap_medium`, `ap_large`;
    `ap50_agnostic`, of boxes whatever their class; and `ap/CLASS`. -1 where there are no boxes to be found.

    boxes: gives what is true of an example and what its answer detected.
    """

    names: Sequence[str] = (*STATISTICS, AGNOSTIC)

    def __init__(
        self,
        class_names: Sequence[str],
        boxes: Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[Boxes, Boxes]],
    ):
        _tools()
        self._classes, self._boxes = tuple(class_names), boxes
        self._images = 0
        self._true: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []

    def add(self, example: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Keeps the boxes of one image, and of what was found only what is finite: pycocotools takes NaN as right."""
        true, found = self._boxes(example, answer)
        self._images += 1
        for number, box in enumerate(_boxes_of(true)):
            area = box["bbox"][2] * box["bbox"][3] if true.areas is None else float(true.areas[number])
            crowd = 0 if true.crowd is None else int(true.crowd[number])
            box |= {"id": len(self._true) + 1, "image_id": self._images, "area": area, "iscrowd": crowd}
            self._true.append(box)
        assert found.scores is not None
        for box, score in zip(_boxes_of(found), found.scores.tolist(), strict=True):
            if np.isfinite([*box["bbox"], score]).all():
                self._found.append(box | {"image_id": self._images, "score": score})

    def result(self) -> dict[str, float]:
        """The scores. Raises UserError where there was no image."""
        if not self._images:
            raise UserError("there are no images to score: give at least one")
        summary, precision = self._evaluated(by_class=True)
        scores = {name: float(summary[place]) for name, place in STATISTICS.items()}
        scores[AGNOSTIC] = float(self._evaluated(by_class=False)[0][STATISTICS["ap50"]])
        return scores | {f"ap/{name}": _mean(precision[:, :, n, 0, -1]) for n, name in enumerate(self._classes)}

    def signatures(self) -> dict[str, str]:
        """What exactly the scores are, and by which version."""
        version = importlib.metadata.version("pycocotools")
        common = f"COCO's definition by pycocotools {version}, 101 recall points, 100 detections an image"
        return {"ap": f"{common}, IoU 0.50:0.05:0.95", "ap50": f"{common}, IoU 0.50", "ap75": f"{common}, IoU 0.75"} | {
            AGNOSTIC: f"{common}, IoU 0.50, all classes as one"
        }

    def _evaluated(self, *, by_class: bool) -> tuple[np.ndarray, np.ndarray]:
        """The twelve numbers of pycocotools' summary, and precisions [ious, recalls, classes, areas, detections]."""
        coco, evaluation = _tools()
        with contextlib.redirect_stdout(io.StringIO()):
            true, found = coco.COCO(), coco.COCO()
            for boxes, entries in ((true, self._true), (found, self._found)):
                boxes.dataset = {
                    "images": [{"id": number} for number in range(1, self._images + 1)],
                    "categories": [{"id": number} for number in range(len(self._classes))],
                    "annotations": [
                        {"id": number, "iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3]} | entry
                        for number, entry in enumerate(entries, 1)
                    ],
                }
                boxes.createIndex()
            measured = evaluation.COCOeval(true, found, "bbox")
            measured.params.useCats = int(by_class)
            measured.evaluate()
            measured.accumulate()
            measured.summarize()
        return measured.stats, measured.eval["precision"]


def _boxes_of(boxes: Boxes) -> list[dict[str, Any]]:
    """As COCO writes them: left, top, width, height."""
    sides = np.asarray(boxes.boxes, np.float64).reshape(-1, 4)
    sides = np.concatenate([sides[:, :2], sides[:, 2:] - sides[:, :2]], axis=1).tolist()
    return [{"bbox": box, "category_id": int(number)} for box, number in zip(sides, boxes.classes, strict=True)]


def _mean(precisions: np.ndarray) -> float:
    """Over those of classes and sizes that have boxes; -1 where none has."""
    there = precisions[precisions > -1]
    return float(there.mean()) if there.size else -1.0


def _tools() -> tuple[Any, Any]:
    """pycocotools' modules `coco` and `cocoeval`. Raises UserError where it is not installed."""
    try:
        from pycocotools import coco, cocoeval  # pyrefly: ignore[missing-import]
    except ImportError as error:
        raise UserError(
            "scores of boxes need the package pycocotools: install the extra detection (uv sync --extra detection)"
        ) from error
    return coco, cocoeval
