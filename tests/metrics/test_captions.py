"""CIDEr-D against its formula with whole vectors in numpy; captions grouped by image."""

import itertools
import re

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from research.errors import UserError
from research.metrics.captions import CaptionScorer, cider_d

WORDS = ("a", "red", "blue", "star", "bar", "above", "the")


def reference(hypotheses, references):
    """Vectors over every n-gram there is, dense, as the equations of Vedantam et al. 2015 (section 5) are written."""

    def grams(text, order):
        words = re.sub(r"[^a-z ]", "", text.lower()).split()
        return [tuple(words[i : i + order]) for i in range(len(words) - order + 1)]

    values = np.zeros((len(hypotheses), 4))
    for order in range(1, 5):
        texts = [*hypotheses, *itertools.chain(*references)]
        axis = sorted({gram for text in texts for gram in grams(text, order)})
        if not axis:
            continue
        inside = np.array(
            [[any(gram in grams(text, order) for text in group) for gram in axis] for group in references]
        )
        idf = np.log(len(references)) - np.log(np.maximum(inside.sum(axis=0), 1))

        def vector(text, axis=axis, order=order, idf=idf):
            found = grams(text, order)
            return np.array([found.count(gram) for gram in axis]) * idf

        for row, (answer, group) in enumerate(zip(hypotheses, references, strict=True)):
            for text in group:
                g, s = vector(answer), vector(text)
                norm = np.linalg.norm(g) * np.linalg.norm(s)
                gap = len(grams(answer, 1)) - len(grams(text, 1))
                alike = np.minimum(g, s) @ s / norm if norm else 0.0
                values[row, order - 1] += 10 / len(group) * alike * np.exp(-(gap**2) / 72)
    return values.mean(axis=1).mean()


def test_against_whole_vectors():
    random = np.random.default_rng(0)

    def text():
        return " ".join(random.choice(WORDS, random.integers(1, 9)))

    references = [[text() for _ in range(random.integers(1, 4))] for _ in range(12)]
    hypotheses = [group[0] if number % 3 == 0 else text() for number, group in enumerate(references)]
    found = cider_d(hypotheses, references)
    assert 1 < found < 9 and found == pytest.approx(reference(hypotheses, references))


def test_ends():
    texts = ["a red star above a bar", "the blue bar below two stars"]
    assert cider_d(texts, [[text] for text in texts]) == pytest.approx(10)
    assert cider_d(["A red star, above a bar!", texts[1]], [[text] for text in texts]) == pytest.approx(10)
    assert cider_d(["", "x"], [[text] for text in texts]) == 0
    assert cider_d(texts[:1], [texts[:1]]) == 0  # what all images have weighs nothing


def test_captions_of_one_image_are_its_references():
    scorer = CaptionScorer()
    pairs = [
        ("1", "a red star on the ground", "x"),
        ("2", "a blue bar", "a blue bar"),
        ("1", "one red star lies here", "y"),
    ]
    answers = {"1": "a red star on the ground", "2": "a blue bar"}
    for name, caption, _ in pairs:
        scorer.add({"name": name, "caption": caption}, {"text": answers[name]})
    scores = scorer.result()
    groups = [["a red star on the ground", "one red star lies here"], ["a blue bar"]]
    assert scores["cider"] == pytest.approx(reference([*answers.values()], groups))
    assert scores["bleu"] == pytest.approx(
        BLEU().corpus_score([*answers.values()], [["a red star on the ground", "a blue bar"]]).score
    )
    assert set(scores) == set(scorer.names) == set(scorer.signatures()) and "nrefs:all" in scorer.signatures()["bleu"]
    with pytest.raises(UserError, match="there are no captions to score"):
        CaptionScorer().result()
