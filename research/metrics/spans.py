"""Scores of tagged words: spans such as names, in the two definitions that tools use, and words.

`seqeval`'s default (and conlleval's) takes what it can: a span may begin with I-, and ends where the type changes.
Its strict mode takes IOB2 at its word: a span is a B- with the I- of the same type behind it, and nothing else is one.
The same tags score differently, so that a number has to say which it is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from research.errors import UserError
from research.metrics.labels import f1_of

Span = tuple[str, int, int]
"""Type, first word, and the word behind the last one."""


def lenient_spans(tags: Sequence[str]) -> list[Span]:
    """The spans of a sentence as seqeval 1.2.2 finds them by default, for IOB1, IOB2, IOE and IOBES."""
    found, start = [], 0
    last, kind = "O", ""
    for place, tag in enumerate([*tags, "O"]):
        mark, here = tag[0], tag[1:].split("-", 1)[-1] or "_"
        if _ends(last, mark, kind, here):
            found.append((kind, start, place))
        if _starts(last, mark, kind, here):
            start = place
        last, kind = mark, here
    return found


def _ends(last: str, mark: str, kind: str, here: str) -> bool:
    """Whether a span ends between two words (conlleval.pl's endOfChunk)."""
    return last in "ES" or (last in "BI" and mark in "BSO") or (last not in "O." and last != mark and mark == "O") or (
        last not in "O." and kind != here
    )  # fmt: skip


def _starts(last: str, mark: str, kind: str, here: str) -> bool:
    """Whether a span starts with the second of two words (conlleval.pl's startOfChunk)."""
    return mark in "BS" or (last in "ESO" and mark in "EI") or (mark not in "O." and kind != here)


def strict_spans(tags: Sequence[str]) -> list[Span]:
    """The spans of a sentence in IOB2: each begins with B-, and continues with I- of the same type."""
    found: list[Span] = []
    for place, tag in enumerate(tags):
        mark, _, kind = tag.partition("-")
        if mark == "B":
            found.append((kind, place, place + 1))
        elif mark == "I" and found and found[-1] == (kind, found[-1][1], place):
            found[-1] = (kind, found[-1][1], place + 1)
    return found


DEFINITIONS: Mapping[str, tuple[Callable[[Sequence[str]], list[Span]], str]] = {
    "span": (lenient_spans, "seqeval 1.2.2 default, micro average"),
    "span_strict": (strict_spans, "seqeval 1.2.2 mode=strict scheme=IOB2, micro average"),
}


class SpanScorer:
    """Precision, recall and F1 of spans over all sentences, by both definitions: `span_f1`, `span_strict_f1`.

    Of an example it takes `target` and of an answer `text`: tags parted by single spaces.
    """

    names: Sequence[str] = tuple(f"{name}_{score}" for name in DEFINITIONS for score in ("precision", "recall", "f1"))

    def __init__(self):
        self._counts = {name: [0, 0, 0] for name in DEFINITIONS}
        self._sentences = 0

    def add(self, example: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Counts the spans of one sentence: those in both, those answered, those true."""
        self._sentences += 1
        right, given = example["target"].split(" "), answer["text"].split(" ")
        for name, (spans, _) in DEFINITIONS.items():
            true, answered = {*spans(right)}, {*spans(given)}
            sizes = len(true & answered), len(answered), len(true)
            self._counts[name] = [total + size for total, size in zip(self._counts[name], sizes, strict=True)]

    def result(self) -> dict[str, float]:
        """The scores; 0 where there is nothing to divide by. Raises UserError where nothing was added."""
        if not self._sentences:
            raise UserError("there are no answers to score: give at least one example")
        scores = {}
        for name, (both, answered, true) in self._counts.items():
            scores[f"{name}_precision"] = both / answered if answered else 0.0
            scores[f"{name}_recall"] = both / true if true else 0.0
            scores[f"{name}_f1"] = f1_of(both, answered - both, true - both)
        return scores

    def signatures(self) -> dict[str, str]:
        """Which definition each score has."""
        return {f"{name}_f1": said for name, (_, said) in DEFINITIONS.items()}
