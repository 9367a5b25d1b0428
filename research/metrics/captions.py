"""Scores of captions against several references for each image: BLEU and CIDEr-D."""

import collections
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sacrebleu.metrics import BLEU

from research.errors import UserError

SIGMA = 6.0
"""Of the penalty on a difference in length (Vedantam et al. 2015, section 5)."""
ORDERS = 4
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")

Counts = dict[tuple[str, ...], int]


def cider_d(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """CIDEr-D (Vedantam et al. 2015, section 5), 0 to 10, mean over images.

    The words of a text are lower-cased, without punctuation. Of the n-grams of an order, 1 to 4, a text's vector has
    count · log(images / images with the n-gram in a reference): counts and not their shares, as in the authors' code. A
    hypothesis c is worth 10 · Σ min(c, s) · s / (|c| |s|) · exp(-(difference in words)² / (2 · 6²)) against a reference
    s, mean over references and orders. An n-gram of all images weighs nothing: a single image scores 0.
    """
    answers = [_counts(text) for text in hypotheses]
    truths = [[_counts(text) for text in texts] for texts in references]
    seen = collections.Counter(gram for texts in truths for gram in set().union(*texts))
    weight = {gram: math.log(len(truths) / count) for gram, count in seen.items()}
    unseen = math.log(max(len(truths), 1))

    def vectors(counts: Counts) -> list[dict[tuple[str, ...], float]]:
        parts: list[dict[tuple[str, ...], float]] = [{} for _ in range(ORDERS)]
        for gram, count in counts.items():
            parts[len(gram) - 1][gram] = count * weight.get(gram, unseen)
        return parts

    total = 0.0
    for answer, texts in zip(answers, truths, strict=True):
        own = vectors(answer)
        alike = (_alike(own, vectors(text)) * _length_penalty(answer, text) for text in texts)
        total += 10 * sum(alike) / len(texts)
    return total / len(truths)


def _counts(text: str) -> Counts:
    words = WORD.findall(text.lower())
    grams = (tuple(words[i : i + n]) for n in range(1, ORDERS + 1) for i in range(len(words) - n + 1))
    return collections.Counter(grams)


def _length_penalty(answer: Counts, reference: Counts) -> float:
    lengths = (sum(count for gram, count in counts.items() if len(gram) == 1) for counts in (answer, reference))
    first, second = lengths
    return math.exp(-((first - second) ** 2) / (2 * SIGMA**2))


def _alike(answer: Sequence[Mapping[Any, float]], reference: Sequence[Mapping[Any, float]]) -> float:
    """The mean over orders of clipped cosines."""
    total = 0.0
    for own, other in zip(answer, reference, strict=True):
        norms = math.sqrt(sum(x * x for x in own.values())) * math.sqrt(sum(x * x for x in other.values()))
        if norms:
            total += sum(min(own[gram], x) * x for gram, x in other.items() if gram in own) / norms
    return total / ORDERS


class CaptionScorer:
    """`bleu`, sacreBLEU's of the corpus, 0 to 100, and `cider`, CIDEr-D, 0 to 10, against all captions of an image.

    Examples with one `name` are of one image, whose first answer counts; without a name, each has its own.
    """

    names: Sequence[str] = ("bleu", "cider")

    def __init__(self):
        self._answers: dict[Any, str] = {}
        self._references: dict[Any, list[str]] = {}
        self._count = 0

    def add(self, example: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Takes the answer's `text` and the example's `caption`."""
        self._count += 1
        image = example.get("name", self._count)
        self._answers.setdefault(image, answer["text"])
        self._references.setdefault(image, []).append(example["caption"])

    def result(self) -> dict[str, float]:
        """The scores. Raises UserError where nothing was added."""
        if not self._answers:
            raise UserError("there are no captions to score: give at least one example")
        answers, references = [*self._answers.values()], [*self._references.values()]
        most = max(map(len, references))
        streams = [[texts[place] if place < len(texts) else None for texts in references] for place in range(most)]
        bleu = BLEU().corpus_score(answers, streams).score  # pyrefly: ignore[bad-argument-type]
        return {"bleu": bleu, "cider": cider_d(answers, references)}

    def signatures(self) -> dict[str, str]:
        """What exactly these scores are."""
        metric = BLEU()
        metric.corpus_score([""], [[""]])
        return {
            "bleu": str(metric.get_signature()).replace("nrefs:1", "nrefs:all"),
            "cider": "CIDEr-D, counts, sigma 6, orders 1 to 4, lower-case words, weights of the split",
        }
