"""ListOps: nested lists of digits with an operator each, whose value is a digit (Nangia & Bowman 2018).

The grammar of section 3 of the paper with its published script's probabilities, written out here; nothing is copied
from the published files. Examples are drawn without end, so that there is no need to store any.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from research.data.source import Example, Source, check_split
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

SHARES = {"train": range(8), "validation": range(8, 9), "test": range(9, 10)}
"""Tenths of all expressions: a digest of an expression's text says in which split alone it can be."""


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
        return _Expressions(self, split, self.size if split == "train" else self.size // 10)


@dataclass(frozen=True)
class _Expressions(Sequence[Example]):
    source: ListOps
    split: str
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:  # pyrefly: ignore[bad-override]
        if not 0 <= index < self.size:
            raise IndexError(index)
        source = self.source
        draw = np.random.default_rng((source.seed, list(SHARES).index(self.split), index))
        for _ in range(TRIES):
            found = _expression(draw, source.depth, source.arguments, source.longest)
            if found is None or len(found[0]) < source.shortest:
                continue
            text = " ".join(found[0])
            if zlib.crc32(text.encode()) % 10 in SHARES[self.split]:
                return {"source": text, "label": str(found[1])}
        raise UserError(
            f"data.depth {source.depth} and data.arguments {source.arguments} hardly ever give an expression of "
            f"{source.shortest} to {source.longest} tokens: use larger ones, or other lengths"
        )


TRIES = 100_000
"""Expressions that are drawn for one example, at most."""


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
