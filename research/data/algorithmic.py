"""Sequences to be copied, reversed or added, and longer ones in the test than in training.

What positions do to a model's length generalisation is measured on such problems (Kazemnejad et al. 2023, "The Impact
of Positional Encoding on Length Generalization in Transformers").
"""

import functools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from research.data.source import Drawn, Example, Source, check_split
from research.errors import UserError
from research.ranges import Range, Seed

SYMBOLS = "0123456789"
HELD_OUT = 10
"""One sequence in ten, by a digest of its text, is for validation alone."""


@dataclass(frozen=True)
class Algorithmic(Source):
    """{"source", "target"}, a digit a word: "3 1 4" gives "3 1 4" or "4 1 3", and "9 9 + 3" gives "1 0 2".

    longest: digits of a sequence, or of either number of a sum, in training and validation, where all lengths from 1 on
    are equally frequent; the test has those from `longest` + 1 to `test_longest`. size: training examples; a tenth of
    it are validation, and another the test.
    """

    problem: Literal["copy", "reverse", "addition"] = "copy"
    longest: Annotated[int, Range(2, 1000)] = 20
    test_longest: Annotated[int, Range(3, 2000)] = 40
    size: Annotated[int, Range(10, 10_000_000)] = 50_000
    seed: Seed = 0

    splits = ("train", "validation", "test")

    def __post_init__(self):
        if self.test_longest <= self.longest:
            raise UserError(
                f"data.test_longest {self.test_longest} is not above data.longest {self.longest}: use a larger one"
            )

    def examples(self, split: str) -> Sequence[Example]:
        """An example is a function of (seed, problem, split, index) alone; no text is in two splits."""
        check_split(split, self.splits)
        return Drawn(self.size if split == "train" else self.size // 10, functools.partial(self._drawn, split))

    def _drawn(self, split: str, index: int) -> Example:
        draw = np.random.default_rng((self.seed, self.splits.index(split), index))
        ends = (self.longest + 1, self.test_longest) if split == "test" else (1, self.longest)
        while True:
            example = self._problem(draw, int(draw.integers(ends[0], ends[1] + 1)))
            held_out = zlib.crc32(example["source"].encode()) % HELD_OUT == 0
            if split == "test" or held_out == (split == "validation"):
                return example

    def _problem(self, draw: np.random.Generator, length: int) -> Example:
        if self.problem != "addition":
            digits = _digits(draw, length)
            return {"source": " ".join(digits), "target": " ".join(digits if self.problem == "copy" else digits[::-1])}
        numbers = [_number(draw, length), _number(draw, int(draw.integers(1, length + 1)))]
        if draw.random() < 0.5:
            numbers.reverse()
        return {"source": " + ".join(map(_spaced, numbers)), "target": _spaced(sum(numbers))}


def _digits(draw: np.random.Generator, length: int) -> list[str]:
    return [SYMBOLS[place] for place in draw.integers(len(SYMBOLS), size=length)]


def _number(draw: np.random.Generator, length: int) -> int:
    """A number with `length` digits, the first of which is not 0, except for 0 itself."""
    digits = _digits(draw, length)
    if length > 1 and digits[0] == "0":
        digits[0] = SYMBOLS[int(draw.integers(1, 10))]
    return int("".join(digits))


def _spaced(number: int) -> str:
    return " ".join(str(number))
