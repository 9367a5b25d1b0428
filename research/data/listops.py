"""ListOps: nested lists of digits with an operator each, whose value is a digit (Nangia & Bowman 2018).

The grammar of section 3 of the paper with its published script's probabilities, written out here; nothing is copied
from the published files. Examples are drawn without end, so that there is no need to store any.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from research.data.source import Drawn, Example, Source, check_split, split_of
from research.errors import UserError
from research.ranges import Range, Seed

OPERATORS: dict[str, Callable[[Sequence[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(np.median(values)),
    "[SM": lambda values: sum(values) % 10,
}
"""The median of an even number of values is the mean of the middle two, rounded down; SM is the sum modulo 10."""

LIST_CHANCE = 0.25
"""Of an argument to be a list instead of a digit."""

TRIES = 100_000
"""Expressions that are drawn for one example, at most."""


@dataclass(frozen=True)
class ListOps(Source):
    """Expressions such as "[MAX 2 9 [MIN 4 7 ] 0 ]", a token a word, with their value as `label`, "0" to "9".

    size: training examples; a tenth of it are validation, and another the test. shortest, longest: tokens of an
    expression. depth, arguments: of the nested lists, at most; the paper's are 20 and 5, those of the Long Range Arena
    10 and 10.
    """

    size: Annotated[int, Range(10, 10_000_000)] = 90_000
    shortest: Annotated[int, Range(4, 10_000)] = 4
    longest: Annotated[int, Range(4, 10_000)] = 100
    depth: Annotated[int, Range(1, 50)] = 20
    arguments: Annotated[int, Range(2, 100)] = 5
    seed: Seed = 0

    splits = ("train", "validation", "test")

    def __post_init__(self):
        if self.longest < self.shortest + 10:
            raise UserError(
                f"data.longest {self.longest} is below data.shortest {self.shortest} and ten more: use a larger one"
            )

    def examples(self, split: str) -> Sequence[Example]:
        """{"source": expression, "label": its value}. An example is a function of (seed, split, index) alone."""
        check_split(split, self.splits)
        return Drawn(self.size if split == "train" else self.size // 10, functools.partial(self._drawn, split))

    def _drawn(self, split: str, index: int) -> Example:
        draw = np.random.default_rng((self.seed, self.splits.index(split), index))
        for _ in range(TRIES):
            found = _expression(draw, self.depth, self.arguments, self.longest)
            if found is None or len(found[0]) < self.shortest:
                continue
            text = " ".join(found[0])
            if split_of(text) == split:
                return {"source": text, "label": str(found[1])}
        raise UserError(
            f"data.depth {self.depth} and data.arguments {self.arguments} hardly ever give an expression of "
            f"{self.shortest} to {self.longest} tokens: use larger ones, or other lengths"
        )


def _expression(draw: np.random.Generator, depth: int, arguments: int, room: int) -> tuple[list[str], int] | None:
    """The tokens of a list and its value; None for one of more than `room` tokens."""
    operator = list(OPERATORS)[int(draw.integers(len(OPERATORS)))]
    count = int(draw.integers(2, arguments + 1))
    tokens, values = [operator], []
    for _ in range(count):
        if depth > 1 and draw.random() < LIST_CHANCE:
            inner = _expression(draw, depth - 1, arguments, room - len(tokens) - 1)
            if inner is None:
                return None
            tokens += inner[0]
            values.append(inner[1])
        else:
            values.append(int(draw.integers(10)))
            tokens.append(str(values[-1]))
        if len(tokens) + 1 > room:
            return None
    return [*tokens, "]"], OPERATORS[operator](values)
