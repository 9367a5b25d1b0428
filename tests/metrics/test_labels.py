import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from research.errors import UserError
from research.metrics import labels
from research.metrics.labels import LabelScorer


@pytest.mark.parametrize("seed", range(8))
def test_scores_of_classes_are_scikit_learns(seed):
    random = np.random.default_rng(seed)
    right, given = (random.integers(0, 2 + seed % 3, 60).tolist() for _ in range(2))
    assert labels.accuracy(right, given) == pytest.approx(sklearn.metrics.accuracy_score(right, given))
    assert labels.matthews(right, given) == pytest.approx(sklearn.metrics.matthews_corrcoef(right, given))
    assert labels.macro_f1(right, given) == pytest.approx(sklearn.metrics.f1_score(right, given, average="macro"))
    binary = [[value > 0 for value in side] for side in (right, given)]
    assert labels.f1(*binary, True) == pytest.approx(sklearn.metrics.f1_score(*binary))


def test_matthews_of_a_table_by_hand():
    """TP 4, TN 3, FP 2, FN 1: (12 - 2) / sqrt(6 · 5 · 5 · 4)."""
    right, given = [1, 1, 1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0, 1, 1]
    assert labels.matthews(right, given) == pytest.approx(10 / math.sqrt(600))
    assert labels.matthews([1, 1], [0, 1]) == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_correlations_are_scipys(seed):
    random = np.random.default_rng(seed)
    a, b = random.normal(size=50), random.integers(0, 6, 50)  # the second has ties
    assert labels.pearson(a, b) == pytest.approx(scipy.stats.pearsonr(a, b)[0])
    assert labels.spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b)[0])
    assert labels.pearson(a, np.ones(50)) == 0.0


def test_several_labels_are_scored_as_pairs_and_as_wholes():
    right, given = [["a", "b"], [], ["c"]], [["b", "a"], ["c"], ["b"]]
    random = np.random.default_rng(0).integers(0, 2, (2, 40, 5))
    sets = [[np.flatnonzero(row).tolist() for row in side] for side in random]
    assert labels.micro_f1(*sets) == pytest.approx(sklearn.metrics.f1_score(*random, average="micro"))
    assert labels.subset_accuracy(*sets) == pytest.approx(sklearn.metrics.accuracy_score(*random))
    assert labels.micro_f1(right, given) == pytest.approx(2 * 2 / (2 * 2 + 2 + 1))
    assert labels.subset_accuracy(right, given) == pytest.approx(1 / 3)


def test_the_scorer_names_what_it_computes():
    scorer = LabelScorer(["f1", "matthews"], labels.CLASSES, lambda example: example["label"], "label", "spam")
    for right, given in (("spam", "spam"), ("ham", "spam"), ("ham", "ham")):
        scorer.add({"label": right}, {"label": given})
    assert scorer.result() == {"f1": pytest.approx(2 / 3), "matthews": pytest.approx(0.5)}
    assert scorer.signatures() == {"f1": "F1 of class 'spam'"}
    with pytest.raises(UserError, match="score 'rouge' is unknown: use one of the valid names"):
        LabelScorer(["rouge"], labels.CLASSES, dict, "label")
    with pytest.raises(UserError, match="no answers to score"):
        LabelScorer(["f1"], labels.CLASSES, dict, "label").result()
