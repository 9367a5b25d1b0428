"""Scores of masks against Fractions counted pixel by pixel, and against a published example."""

import math
from fractions import Fraction

import numpy as np
import pytest

from research.errors import UserError
from research.metrics.segmentation import SegmentationScorer, confusion

IGNORED = 255
EXAMPLE = (
    ([[1, 2], [3, 4], [5, 255]], [[0, 3], [5, 4], [6, 255]]),
    ([[2, 7], [9, 2], [3, 6]], [[1, 7], [9, 2], [3, 6]]),
    ([[2, 2, 3], [8, 2, 4], [3, 255, 2]], [[1, 2, 2], [8, 2, 1], [3, 255, 1]]),
)
"""Answers and truths in the documentation of `mean_iou` in evaluate 0.4, whose scores are in the test."""


def scores(pairs, num_classes):
    scorer = SegmentationScorer([f"{n}" for n in range(num_classes)], lambda truth, answer: (truth, answer), IGNORED)
    for truth, answer in pairs:
        scorer.add(np.array(truth), np.array(answer))
    return scorer.result()


def test_the_published_example():
    found = scores([(truth, answer) for answer, truth in EXAMPLE], 10)
    assert found["miou"] == pytest.approx(0.4775) and found["mean_accuracy"] == pytest.approx(0.5916666666666666)
    assert found["pixel_accuracy"] == pytest.approx(0.5263157894736842)
    wanted = [0, 0, 0.375, 0.4, 0.5, 0, 0.5, 1, 1, 1]
    assert [found[f"iou/{n}"] for n in range(10)] == pytest.approx(wanted)


def brute_force(pairs, num_classes):
    """The scores as Fractions, from sets of pixels."""
    places = [
        (case, row, column)
        for case, (truth, _) in enumerate(pairs)
        for row, column in np.ndindex(truth.shape)
        if truth[row, column] != IGNORED
    ]
    true = [{p for p in places if pairs[p[0]][0][p[1:]] == n} for n in range(num_classes)]
    given = [{p for p in places if pairs[p[0]][1][p[1:]] == n} for n in range(num_classes)]

    def mean(values):
        return sum(values, Fraction(0)) / len(values)

    there = [n for n in range(num_classes) if true[n] | given[n]]
    cases = []
    for n in there:
        dice = []
        for case in range(len(pairs)):
            a, b = ({p for p in side[n] if p[0] == case} for side in (true, given))
            if a or b:
                dice.append(Fraction(2 * len(a & b), len(a) + len(b)))
        cases.append(mean(dice))
    return {
        "miou": mean([Fraction(len(true[n] & given[n]), len(true[n] | given[n])) for n in there]),
        "pixel_accuracy": Fraction(sum(len(a & b) for a, b in zip(true, given, strict=True)), len(places)),
        "mean_accuracy": mean([Fraction(len(true[n] & given[n]), len(true[n])) for n in there if true[n]]),
        "dice_per_set": mean([Fraction(2 * len(true[n] & given[n]), len(true[n]) + len(given[n])) for n in there]),
        "dice_per_case": mean(cases),
    }


@pytest.mark.parametrize("seed", range(12))
def test_random_sets_equal_brute_force(seed):
    """With classes that images or the whole set lack, and images that are ignored as a whole."""
    random = np.random.default_rng(seed)
    num_classes = int(random.integers(1, 6))
    pairs = []
    for case in range(4):
        shape = tuple(random.integers(1, 7, 2))
        truth, answer = (random.integers(0, random.integers(1, num_classes + 1), shape) for _ in range(2))
        truth[random.random(shape) < 0.2] = IGNORED
        if case == 3:
            truth[:] = IGNORED
        pairs.append((truth, answer))
    if all((truth == IGNORED).all() for truth, _ in pairs):
        pairs[0][0][0, 0] = 0
    found, wanted = scores(pairs, num_classes), brute_force(pairs, num_classes)
    for name, value in wanted.items():
        assert math.isclose(found[name], value, rel_tol=1e-15), name
    assert scores(pairs[::-1], num_classes) == found  # the order changes no digit


def test_counts_are_whole_numbers_however_many():
    truth, answer = np.zeros((1000, 1000), np.uint8), np.zeros((1000, 1000), np.uint8)
    counts = confusion(truth, answer, 2, IGNORED)
    assert counts.dtype == np.int64 and counts.tolist() == [[10**6, 0], [0, 0]]


def test_nothing_that_counts_is_a_sentence():
    with pytest.raises(UserError, match="there are no pixels to score"):
        scores([([[255]], [[0]])], 2)
