"""Retrieval scores against a brute force over sorted lists, and by hand."""

import numpy as np
import pytest

from research.errors import UserError
from research.metrics.retrieval import RetrievalScorer, ranks


def scored(pairs, vectors):
    scorer = RetrievalScorer()
    for source, target in pairs:
        answer = {"vector": vectors[source], "target_vector": vectors[target]}
        scorer.add({"source": source, "target": target}, answer)
    return scorer.result()


def test_against_sorted_lists(monkeypatch):
    monkeypatch.setattr("research.metrics.retrieval.CHUNK", 7)
    random = np.random.default_rng(0)
    pairs = [(f"q{a}", f"t{b}") for a, b in zip(random.integers(0, 20, 60), random.integers(0, 30, 60), strict=True)]
    texts = {text for pair in pairs for text in pair}
    vectors = {text: random.normal(size=4).astype(np.float32) for text in sorted(texts)}
    targets = sorted({target for _, target in pairs})
    places = []
    for source, _ in pairs:  # a source that occurs twice counts twice
        order = sorted(targets, key=lambda target: -float(vectors[source] @ vectors[target]))
        right = {target for other, target in pairs if other == source}
        places.append(1 + min(order.index(target) for target in right))
    expected = {f"recall_{k}": np.mean([place <= k for place in places]) for k in (1, 5, 10)}
    assert scored(pairs, vectors) == pytest.approx(expected | {"mrr": np.mean([1 / place for place in places])})
    assert 0.1 < expected["recall_1"] < expected["recall_5"] < 1


def test_equal_vectors_find_nothing_and_the_best_of_several_counts():
    same = np.ones((4, 3), np.float32)
    assert ranks(same, same, [[0], [1], [2], [3]]).tolist() == [4, 4, 4, 4]
    candidates = np.array([[0.9], [0.8], [0.7], [0.6]], np.float32)
    assert ranks(np.ones((1, 1), np.float32), candidates, [[1, 3]]).tolist() == [2]


def test_no_pairs():
    with pytest.raises(UserError, match="no pairs of texts"):
        RetrievalScorer().result()
