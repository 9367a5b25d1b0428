"""Exact match and F1 of answers, as the official evaluation scripts of SQuAD 1.1 and 2.0 compute them, 0 to 100."""

import collections
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from research.errors import UserError


def normalised(text: str) -> str:
    """Lower case, without punctuation (ASCII's) and articles, its words parted by single spaces."""
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def exact(answer: str, reference: str) -> float:
    """1 where the two are equal once normalised, else 0."""
    return float(normalised(answer) == normalised(reference))


def overlap_f1(answer: str, reference: str) -> float:
    """F1 of the words of the two, as bags: 0 where one has no words, as the script of 1.1 says."""
    given, right = normalised(answer).split(), normalised(reference).split()
    common = sum((collections.Counter(given) & collections.Counter(right)).values())
    return 2 * common / (len(given) + len(right)) if common else 0.0


def best(score: Callable[[str, str], float], answer: str, references: Sequence[str]) -> float:
    """The score against the reference that fits best."""
    return max(score(answer, reference) for reference in references)


def overlap_f1_or_nothing(answer: str, reference: str) -> float:
    """The same, but 1 where neither has words, as the script of 2.0 says."""
    return overlap_f1(answer, reference) or float(not normalised(answer) and not normalised(reference))


def references_of(example: Mapping[str, Any]) -> list[str]:
    """The answers of an example that are not empty once normalised; [""] for a question without any."""
    return [text for text in example["answers"]["text"] if normalised(text)] or [""]


class SquadScorer:
    """`exact_match` and `f1`; with `no_answer` those of SQuAD 2.0, and apart of questions with and without an answer.

    Of an example it takes `answers`, of an answer `text`, which is "" where there is none.
    """

    def __init__(self, no_answer: bool = False):
        self._no_answer = no_answer
        kinds = ("", "has_answer_", "no_answer_") if no_answer else ("",)
        self.names: Sequence[str] = tuple(f"{kind}{score}" for kind in kinds for score in ("exact_match", "f1"))
        self._kinds = kinds
        self._scores: list[tuple[str, float, float]] = []

    def add(self, example: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Scores one answer."""
        references = references_of(example) if self._no_answer else list(example["answers"]["text"])
        overlap = overlap_f1_or_nothing if self._no_answer else overlap_f1
        kind = "no_answer_" if references == [""] else "has_answer_"
        scores = best(exact, answer["text"], references), best(overlap, answer["text"], references)
        self._scores.append((kind, *scores))

    def result(self) -> dict[str, float]:
        """The means in percent; of a kind of which there are none, 0. Raises UserError where nothing was added."""
        if not self._scores:
            raise UserError("there are no answers to score: give at least one example")
        found = {}
        for kind in self._kinds:
            mine = [scores for of, *scores in self._scores if kind in ("", of)]
            for place, name in enumerate(("exact_match", "f1")):
                found[f"{kind}{name}"] = 100 * sum(scores[place] for scores in mine) / max(len(mine), 1)
        return found

    def signatures(self) -> dict[str, str]:
        """Which script's scores they are."""
        said = f"SQuAD {'2.0' if self._no_answer else '1.1'}, percent, best of all references"
        return {name: said for name in self.names}
