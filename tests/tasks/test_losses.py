import numpy as np
import pytest

from research.tasks.losses import cross_entropy, in_top, is_best, weighted


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_against_one_hot_float64(smoothing):
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(3, 4, 7)) * 5, random.integers(0, 7, (3, 4))
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    target = np.eye(7)[labels] * (1 - smoothing) + smoothing / 7
    smoothed, likelihood = cross_entropy(logits.astype(np.float32), labels.astype(np.int32), smoothing)
    np.testing.assert_allclose(smoothed, -(target * log_probabilities).sum(-1), rtol=2e-5)
    np.testing.assert_allclose(
        likelihood, -np.take_along_axis(log_probabilities, labels[..., None], -1)[..., 0], rtol=2e-5
    )


def test_cross_entropy_of_huge_logits_is_finite():
    loss, _ = cross_entropy(np.array([[1e4, -1e4]], np.float32), np.array([1]), 0.1)
    assert np.isfinite(loss).all()


def test_in_top_counts_better_classes():
    logits = np.array([[0.1, 0.5, 0.3], [2.0, 2.0, 1.0], [2.0, 2.0, 1.0], [np.nan] * 3], np.float32)
    assert in_top(logits, np.array([2, 0, 1, 0]), 1).tolist() == [False, True, False, False]
    assert in_top(logits, np.array([2, 0, 1, 0]), 2).tolist() == [True, True, True, False]


def test_is_best():
    logits = np.array([[0.1, 0.5, 0.3], [2.0, 2.0, 1.0], [np.nan, 1.0, 0.0]], np.float32)
    assert is_best(logits, np.array([2, 1, 0])).tolist() == [False, True, False]
    assert is_best(logits, np.array([1, 0, 1])).tolist() == [True, True, False]


def test_weighted_ignores_weight_zero():
    total, weight = weighted(np.array([1.0, 2.0, 50.0], np.float32), np.array([1.0, 1.0, 0.0], np.float32))
    assert (float(total), float(weight)) == (3.0, 2.0)
