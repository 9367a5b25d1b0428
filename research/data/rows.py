"""Rows: a split as arrays, which plans select from and the loader reads."""

import abc

import numpy as np

from research.data.plans import Length

Batch = dict[str, np.ndarray]


class Rows(abc.ABC):
    """What a task makes of the examples of a split: random access to batches of rows.

    A row is what the model sees as one: an example, a window of a text, several images packed together.
    """

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abc.abstractmethod
    def batch(self, indices: np.ndarray, epochs: np.ndarray, length: Length | None) -> Batch:
        """The named arrays of these rows, each with a leading batch axis.

        epochs: of each row; it seeds what is random about it. length: what the rows are padded to, of the kind that
        `lengths` gives; None where that gives None, or for the largest that rows may have.
        """

    def lengths(self) -> np.ndarray | None:
        """Length of each row, int64 [rows], or its height and width, int64 [rows, 2]: what its batch pads it to.

        None where all rows are equal.
        """
        return None

    def tokens(self) -> np.ndarray | None:
        """What of each length (or of height times width) is not padding, [rows]: all of it. None where `lengths` is."""
        lengths = self.lengths()
        return None if lengths is None else lengths.reshape(len(lengths), -1).prod(axis=1)

    @property
    def longest(self) -> int | None:
        """The most that a row may be padded to, where there is such a limit."""
        return None

    def owners(self) -> np.ndarray | None:
        """The index of the example that each row belongs to, int64 [rows]; None where row i is example i."""
        return None

    def first(self, count: int = 1) -> Batch:
        """The batch of the first `count` rows, or of all where there are fewer, padded to the longest of them."""
        indices, lengths = np.arange(min(count, len(self))), self.lengths()
        length = None
        if lengths is not None and len(indices):
            longest = lengths[indices].max(axis=0).tolist()
            length = tuple(longest) if isinstance(longest, list) else longest
        return self.batch(indices, np.zeros_like(indices), length)
