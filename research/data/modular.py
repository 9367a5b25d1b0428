"""Arithmetic modulo a prime as a table of equations, part of it for training (Power et al. 2022, "Grokking")."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from research.data.source import Example, Source, check_split
from research.errors import UserError
from research.ranges import Part, Range, Seed


@dataclass(frozen=True)
class Modular(Source):
    """All equations a + b, a - b or a / b (b not 0) of the residues of a prime (appendix A.1.1 of the paper).

    modulus: the prime, whose square is the number of equations. train_fraction: the share of the table that is trained
    on, drawn from `seed`; validation is all the rest.
    """

    operation: Literal["+", "-", "/"] = "/"
    modulus: Annotated[int, Range(2, 300)] = 97
    train_fraction: Part = 0.5
    seed: Seed = 0

    splits = ("train", "validation")

    def __post_init__(self):
        if any(self.modulus % divisor == 0 for divisor in range(2, self.modulus)):
            raise UserError(f"data.modulus {self.modulus} is not a prime, as division needs: use one such as 97")

    def examples(self, split: str) -> Sequence[Example]:
        """{"source": "12 / 5 =", "target": "80"}, in random order."""
        check_split(split, self.splits)
        table = self._table()
        random.Random(self.seed).shuffle(table)
        cut = round(len(table) * self.train_fraction)
        return table[:cut] if split == "train" else table[cut:]

    def _table(self) -> list[Example]:
        residues = range(self.modulus)
        return [
            {"source": f"{a} {self.operation} {b} =", "target": str(self._result(a, b))}
            for a in residues
            for b in residues
            if b or self.operation != "/"
        ]

    def _result(self, a: int, b: int) -> int:
        if self.operation == "/":
            return a * pow(b, -1, self.modulus) % self.modulus
        return (a + b if self.operation == "+" else a - b) % self.modulus
