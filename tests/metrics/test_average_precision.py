"""COCO's average precision against loops over single boxes, written from its definition, and values worked out by hand.

pycocotools itself is not among the packages of this project.
"""

import numpy as np
import pytest

from research.metrics.average_precision import AREAS, AveragePrecisionScorer, Boxes


def boxes_of(rows):
    return np.array(rows, np.float64).reshape(-1, 4)


def truth(boxes, classes=None, **fields):
    boxes = boxes_of(boxes)
    return Boxes(boxes, np.zeros(len(boxes), int) if classes is None else np.array(classes), **fields)


def found(boxes, scores, classes=None):
    boxes = boxes_of(boxes)
    return Boxes(boxes, np.zeros(len(boxes), int) if classes is None else np.array(classes), np.array(scores, float))


def scores(pairs, num_classes=1):
    scorer = AveragePrecisionScorer([f"{n}" for n in range(num_classes)], lambda true, answer: (true, answer))
    for true, answer in pairs:
        scorer.add(true, answer)
    return scorer.result()


A, B = (0, 0, 10, 10), (50, 50, 90, 90)


@pytest.mark.parametrize(
    ("true", "answer", "wanted"),
    [
        (truth([A]), found([A], [0.9]), {"ap": 1, "ap50": 1, "ar_1": 1, "ap_small": 1, "ap_medium": -1}),
        (truth([A]), found([], []), {"ap": 0, "ar_100": 0}),
        (truth([]), found([A], [0.9]), {"ap": -1, "ar_100": -1}),
        (truth([A, B]), found([A], [0.9]), {"ap": 51 / 101, "ap_small": 1, "ap_medium": 0, "ar_100": 0.5}),
        # A false one of a higher score halves the precision, one of a lower score changes nothing.
        (truth([A]), found([B, A], [0.9, 0.8]), {"ap": 0.5, "ar_1": 0, "ar_10": 1, "ap_small": 1}),
        (truth([A]), found([A, B], [0.9, 0.8]), {"ap": 1}),
        # A second detection of one box is false.
        (truth([A, B]), found([A, A, B], [0.9, 0.8, 0.7]), {"ap": (51 + 50 * 2 / 3) / 101}),
        # IoU 0.81 fits seven of the ten limits: 0.5, 0.55, ..., 0.8.
        (truth([A]), found([(0, 0, 10, 8.1)], [0.5]), {"ap": 0.7, "ap50": 1, "ap75": 1}),
        (truth([A]), found([(0, 0, 10, 7.1)], [0.5]), {"ap": 0.5, "ap50": 1, "ap75": 0}),
        # What lies in a crowd counts for nothing; the crowd is not to be found.
        (truth([A, B], crowd=np.array([0, 1])), found([A, (52, 52, 60, 60), B], [0.5, 0.9, 0.8]), {"ap": 1}),
        # A box that is to be found goes before a crowd that fits better; above 0.71 the crowd takes the detection.
        (truth([A, (0, 0, 20, 20)], crowd=np.array([0, 1])), found([(0, 0, 10, 7.1)], [0.5]), {"ap": 0.5}),
        # The area that is given decides on the size.
        (truth([B], areas=np.array([9.0])), found([B], [0.5]), {"ap_small": 1, "ap_medium": -1}),
        # Another class is another thing.
        (truth([A], [1]), found([A], [0.9], [0]), {"ap": 0, "ap/0": -1, "ap/1": 0}),
    ],
)  # fmt: skip
def test_values_by_hand(true, answer, wanted):
    result = scores([(true, answer)], 2)
    assert {name: result[name] for name in wanted} == pytest.approx(wanted)


def iou(a, b, crowd):
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    own = (a[2] - a[0]) * (a[3] - a[1])
    union = own if crowd else own + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def matches_of(true, answer, number, limit, size, most):
    """(score, right, ignored) of each detection, and the number of boxes, of one image: the loop of the definition."""
    low, high = AREAS[size]
    boxes = [
        (box, bool(crowd), bool(crowd) or not low <= area <= high)
        for box, kind, crowd, area in zip(true.boxes, true.classes, true.crowd, true.areas, strict=True)
        if kind == number
    ]
    boxes = [each for each in boxes if not each[2]] + [each for each in boxes if each[2]]
    detections = [(score, box) for box, kind, score in zip(answer.boxes, answer.classes, answer.scores, strict=True)
                  if kind == number]  # fmt: skip
    detections = sorted(detections, key=lambda pair: -pair[0])[:100]
    taken, rows = set(), []
    for score, detection in detections:
        best, least = None, limit
        for place, (box, crowd, ignored) in enumerate(boxes):
            if place in taken and not crowd:
                continue
            if best is not None and not boxes[best][2] and ignored:
                break
            if iou(detection, box, crowd) >= least:
                best, least = place, iou(detection, box, crowd)
        if best is None:
            area = (detection[2] - detection[0]) * (detection[3] - detection[1])
            rows.append((score, False, not low <= area <= high))
        else:
            taken.add(best)
            rows.append((score, True, boxes[best][2]))
    return rows[:most], sum(not ignored for _, _, ignored in boxes)


def brute_force(pairs, number, limit, size="", most=100):
    """Average precision and recall of one class at one limit; None where no box is to be found."""
    rows, wanted = [], 0
    for true, answer in pairs:
        more, count = matches_of(true, answer, number, limit, size, most)
        rows += more
        wanted += count
    if not wanted:
        return None
    rows = [row for row in sorted(rows, key=lambda row: -row[0]) if not row[2]]
    points, hits = [], 0
    for place, (_, right, _) in enumerate(rows, 1):
        hits += right
        points.append((hits / wanted, hits / place))
    best = [max([precision for recall, precision in points if recall >= least], default=0.0)
            for least in np.linspace(0, 1, 101)]  # fmt: skip
    return sum(best) / 101, hits / wanted


def random_pairs(random, images, num_classes):
    """Detections that are boxes moved a little, others, and repeated ones; scores differ."""
    pairs = []
    for _ in range(images):
        count = int(random.integers(0, 7))
        corners = random.uniform(0, 200, (count, 2))
        sides = random.choice([8, 20, 50, 120], (count, 1)) * random.uniform(0.7, 1.3, (count, 2))
        boxes = np.concatenate([corners, corners + sides], 1)
        classes, crowd = random.integers(0, num_classes, count), random.random(count) < 0.15
        sizes = (boxes[:, 2:] - boxes[:, :2]).prod(-1) * random.uniform(0.5, 1, count)
        copies = np.repeat(np.arange(count), random.integers(0, 3, count))
        moved = boxes[copies] + random.normal(size=(len(copies), 4)) * random.choice([0.2, 2, 6], (len(copies), 1))
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        kinds = np.where(
            random.random(len(copies)) < 0.8, classes[copies], random.integers(0, num_classes, len(copies))
        )
        pairs.append((Boxes(boxes, classes, None, sizes, crowd), Boxes(moved, kinds, random.random(len(copies)))))
    return pairs


@pytest.mark.parametrize("seed", range(8))
def test_random_sets_equal_loops_over_boxes(seed):
    random = np.random.default_rng(seed)
    pairs = random_pairs(random, 6, 3)
    result = scores(pairs, 3)

    def mean(values):
        there = [value for value in values if value is not None]
        return sum(there) / len(there) if there else -1

    limits = np.linspace(0.5, 0.95, 10)
    for size in AREAS:
        every = [brute_force(pairs, number, limit, size) for number in range(3) for limit in limits]
        assert result[f"ap{size}"] == pytest.approx(mean([pair and pair[0] for pair in every]), abs=1e-9), size
    for name, limit in (("ap50", 0.5), ("ap75", 0.75)):
        every = [brute_force(pairs, number, limit) for number in range(3)]
        assert result[name] == pytest.approx(mean([pair and pair[0] for pair in every]), abs=1e-9)
    for most in (1, 10, 100):
        every = [brute_force(pairs, number, limit, "", most) for number in range(3) for limit in limits]
        assert result[f"ar_{most}"] == pytest.approx(mean([pair and pair[1] for pair in every]), abs=1e-9)
    for number in range(3):
        every = [brute_force(pairs, number, limit) for limit in limits]
        assert result[f"ap/{number}"] == pytest.approx(mean([pair and pair[0] for pair in every]), abs=1e-9)


def test_only_the_hundred_best_detections_count():
    many = found([B] * 100 + [A], [*np.linspace(1, 0.5, 100), 0.1])
    assert scores([(truth([A]), many)])["ap"] == 0
    assert scores([(truth([A]), found([B] * 99 + [A], [*np.linspace(1, 0.5, 99), 0.1]))])["ap"] == pytest.approx(0.01)


def test_signatures_name_scores():
    scorer = AveragePrecisionScorer(["a"], lambda true, answer: (true, answer))
    assert set(scorer.signatures()) <= set(scorer.names) and scorer.result()["ap"] == -1
