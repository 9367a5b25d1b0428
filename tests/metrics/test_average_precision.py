"""Scores by hand, in COCO's 101 points of recall."""

import numpy as np
import pytest

from research.errors import UserError
from research.metrics.average_precision import AveragePrecisionScorer, Boxes

pytest.importorskip("pycocotools")


def boxes_of(rows):
    return np.array(rows, np.float64).reshape(-1, 4)


def scores(pairs, names=("a",)):
    """Of (true boxes, their classes, further fields), (found boxes, scores, classes) for each image."""
    scorer = AveragePrecisionScorer(names, lambda example, answer: (example["true"], answer["found"]))
    for (true, classes, fields), (found, values, labels) in pairs:
        true = Boxes(boxes_of(true), np.array(classes, int), **{name: np.array(v) for name, v in fields.items()})
        scorer.add({"true": true}, {"found": Boxes(boxes_of(found), np.array(labels, int), np.array(values, float))})
    return scorer.result(), scorer


BOX, OTHER = [0, 0, 50, 50], [100, 100, 150, 150]
SMALL, LARGE = [0, 0, 20, 20], [0, 0, 100, 100]


def test_a_wrong_detection_between_two_right_ones(capsys):
    """Precision is 1 up to a recall of 1/2, 51 points, and 2/3 at the 50 points after it."""
    pairs = [(([BOX], [0], {}), ([BOX, OTHER], [0.9, 0.8], [0, 0])), (([BOX], [0], {}), ([BOX], [0.7], [0]))]
    found, scorer = scores(pairs)
    expected = (51 + 50 * 2 / 3) / 101
    assert [found[name] for name in ("ap", "ap50", "ap75", "ap_medium", "ap/a", "ap50_agnostic")] == pytest.approx(
        [expected] * 6
    )
    assert found["ap_small"] == found["ap_large"] == -1 and set(scorer.names) <= set(found)
    assert capsys.readouterr().out == ""  # pycocotools prints a table


def test_iou_thresholds_from_half_up():
    """An IoU of 0.6 is enough for 0.5 and 0.55 and 0.6 of the ten."""
    found, _ = scores([(([[0, 0, 100, 100]], [0], {}), ([[0, 0, 100, 61]], [1], [0]))])
    assert found["ap"] == pytest.approx(0.3) and found["ap50"] == pytest.approx(1) and found["ap75"] == 0


def test_classes_are_apart_except_in_the_agnostic_score():
    found, _ = scores([(([BOX, OTHER], [0, 1], {}), ([BOX, OTHER], [0.9, 0.8], [1, 1]))], ("a", "b", "c"))
    assert found["ap/a"] == 0 and found["ap/b"] == pytest.approx(0.5) and found["ap/c"] == -1
    assert found["ap50"] == pytest.approx(0.25) and found["ap50_agnostic"] == pytest.approx(1)


def test_detections_in_a_crowd_count_for_nothing():
    crowd = {"crowd": [False, True]}
    found, _ = scores([(([BOX, [100, 0, 300, 300]], [0, 0], crowd), ([[120, 50, 160, 90], BOX], [0.9, 0.8], [0, 0]))])
    assert found["ap"] == pytest.approx(1)
    alone, _ = scores([(([BOX], [0], {}), ([[120, 50, 160, 90], BOX], [0.9, 0.8], [0, 0]))])
    assert alone["ap"] == pytest.approx(0.5)


def test_sizes_are_those_of_the_areas_that_are_given():
    pairs = [(([SMALL, [200, 0, 300, 100]], [0, 0], {}), ([SMALL], [1], [0]))]
    found, _ = scores(pairs)
    assert found["ap_small"] == pytest.approx(1) and found["ap_large"] == 0 and found["ap_medium"] == -1
    masks = [(([LARGE], [0], {"areas": [500.0]}), ([LARGE], [1], [0]))]  # the area of a mask in the box
    assert scores(masks)[0]["ap_small"] == pytest.approx(1) and scores(masks)[0]["ap_large"] == -1


def test_images_without_boxes_and_without_answers():
    empty = (([], [], {}), ([], [], []))
    assert scores([empty])[0]["ap"] == -1
    assert scores([empty, (([BOX], [0], {}), ([], [], []))])[0]["ap"] == 0
    false = (([], [], {}), ([BOX], [0.9], [0]))
    assert scores([false, (([BOX], [0], {}), ([BOX], [0.8], [0]))])[0]["ap"] == pytest.approx(0.5)
    with pytest.raises(UserError, match="there are no images to score"):
        scores([])


def test_signatures_name_the_version():
    import importlib.metadata

    scorer = scores([(([BOX], [0], {}), ([BOX], [1], [0]))])[1]
    version = importlib.metadata.version("pycocotools")
    assert set(scorer.signatures()) <= set(scorer.names)
    assert all(f"pycocotools {version}" in text for text in scorer.signatures().values())


@pytest.mark.parametrize(("box", "score"), [([np.nan] * 4, 0.9), (BOX, np.nan), ([0, 0, np.inf, 50], 0.9)])
def test_what_is_not_finite_finds_nothing(box, score):
    found, _ = scores([(([BOX], [0], {}), ([box], [score], [0]))])
    assert found["ap"] == found["ap50"] == found["ap50_agnostic"] == 0
