"""Retrieval scores against a brute force over sorted lists, and by hand."""

import numpy as np
import pytest

from research.errors import UserError
from research.metrics.retrieval import ImageTextScorer, RetrievalScorer, ranks


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
    nothing = np.full((4, 3), np.nan, np.float32)
    assert ranks(nothing, same, [[0], [1], [2], [3]]).tolist() == [4, 4, 4, 4]
    candidates = np.array([[0.9], [0.8], [0.7], [0.6]], np.float32)
    assert ranks(np.ones((1, 1), np.float32), candidates, [[1, 3]]).tolist() == [2]


def test_no_pairs():
    with pytest.raises(UserError, match="no pairs of texts"):
        RetrievalScorer().result()


def image_text(examples, vectors):
    scorer = ImageTextScorer()
    for example in examples:
        answer = {"vector": vectors[example["name"]].tolist(), "caption_vector": vectors[example["caption"]].tolist()}
        answer |= {"twin_vector": vectors[example["twin"]].tolist()} if example["twin"] else {"twin_vector": [0.0] * 4}
        scorer.add(example, answer)
    return scorer


def test_images_and_texts_against_sorted_lists():
    """Equal captions are one, an image's captions are all right, and an image with two counts twice."""
    random = np.random.default_rng(1)
    pairs = [(f"i{a}", f"t{b}") for a, b in zip(random.integers(0, 12, 30), random.integers(0, 15, 30), strict=True)]
    names = sorted({name for pair in pairs for name in pair})
    vectors = {name: random.normal(size=4).astype(np.float32) for name in names}
    scores = image_text([{"name": image, "caption": text, "twin": ""} for image, text in pairs], vectors).result()
    for way, (asked, sought) in {"image_to_text": (0, 1), "text_to_image": (1, 0)}.items():
        candidates, places = sorted({pair[sought] for pair in pairs}), []
        for pair in pairs:
            order = sorted(candidates, key=lambda name, pair=pair: -float(vectors[pair[asked]] @ vectors[name]))
            right = {other[sought] for other in pairs if other[asked] == pair[asked]}
            places.append(1 + min(map(order.index, right)))
        for k in (1, 5, 10):
            assert scores[f"{way}_recall_{k}"] == pytest.approx(np.mean([place <= k for place in places]))
    assert set(scores) == set(ImageTextScorer.of_captions) == set(ImageTextScorer().signatures())


def test_nouns_and_relations():
    """A picture whose twin is nearer has the right nouns and the wrong relation; single pictures do not count."""
    vectors = {"a": [1, 0, 0, 0], "a'": [0.9, 0, 0, 0], "b": [0, 1, 0, 0], "b'": [0, 2, 0, 0], "c": [0, 0, 0, 1]}
    vectors |= {"1": [1, 0, 0, 0], "2": [0, 1, 0, 0], "3": [3, 0, 0.1, 0], "4": [0, 0, 0, 1]}
    vectors |= {"d": [0, 0, 2, 0], "d'": [0, 0, 1, 0]}
    vectors = {name: np.array(vector, np.float32) for name, vector in vectors.items()}
    examples = [{"name": "1", "caption": "a", "twin": "a'"}, {"name": "2", "caption": "b", "twin": "b'"}]
    examples += [{"name": "3", "caption": "d", "twin": "d'"}, {"name": "4", "caption": "c", "twin": ""}]
    scorer = image_text(examples, vectors)
    scores = scorer.result()
    assert scores["relation"] == pytest.approx(2 / 3) and scores["nouns"] == pytest.approx(2 / 3)
    assert {"nouns", "relation"} <= set(scorer.signatures())


def test_an_image_without_a_name_is_none_of_a_number():
    scorer = ImageTextScorer()
    for example, vector in (({"name": "2", "caption": "a"}, [1.0, 0.0]), ({"caption": "b"}, [0.0, 1.0])):
        scorer.add(example, {"vector": vector, "caption_vector": vector})
    assert scorer.result()["text_to_image_recall_1"] == scorer.result()["image_to_text_recall_1"] == 1


def test_labels_alone():
    scorer = ImageTextScorer()
    for label in ("cat", "cat", "dog"):
        scorer.add({"label": 0}, {"vector": [1.0], "label": label, "right": "cat"})
    assert scorer.result() == {"zero_shot_accuracy": pytest.approx(2 / 3)}
    with pytest.raises(UserError, match=r"give images with captions, or with labels and task\.classes"):
        ImageTextScorer().result()
