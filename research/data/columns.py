"""Rows of several sequences of equal length, such as tokens and their labels, with other values beside them."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from research.data.plans import Length
from research.data.rows import Batch, Rows
from research.data.text import Ragged


@dataclasses.dataclass(frozen=True)
class Columns(Rows):
    """A batch holds each of `sequences`, int32 [batch, length], and the rows' `values`, [batch, ...].

    fills: what fills a sequence up, 0 unless given. most: tokens that a row may have. owner: the example of each row,
    where row i is not example i.
    """

    sequences: Mapping[str, Ragged]
    most: int
    values: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    fills: Mapping[str, int] = dataclasses.field(default_factory=dict)
    owner: np.ndarray | None = None

    def __len__(self) -> int:
        return len(next(iter(self.sequences.values())))

    def lengths(self) -> np.ndarray:
        return next(iter(self.sequences.values())).lengths()

    @property
    def longest(self) -> int:
        return self.most

    def owners(self) -> np.ndarray | None:
        return self.owner

    def batch(self, indices: np.ndarray, epochs: np.ndarray, length: Length | None) -> Batch:
        length = self.most if length is None else length
        assert isinstance(length, int)
        batch = {
            name: column.padded(indices, length, self.fills.get(name, 0)) for name, column in self.sequences.items()
        }
        return batch | {name: values[indices] for name, values in self.values.items()}


def ragged(rows: Sequence[np.ndarray]) -> Ragged:
    """Arrays of numbers as sequences: they take an eighth of the memory of lists."""
    lengths = np.array([len(row) for row in rows], np.int64)
    tokens = np.concatenate(rows).astype(np.int32) if rows else np.zeros(0, np.int32)
    return Ragged.of_lengths(tokens, lengths)
