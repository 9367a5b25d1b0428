"""Examples as arrays: what a plan selects from."""

import numpy as np

Batch = dict[str, np.ndarray]


class Rows:
    """A split as rows of arrays. Most often a row is an example; where an example has several, `owners` says so."""

    def __len__(self) -> int:
        """Number of rows."""
        raise TypeError(f"{type(self).__name__} has no length")

    def owners(self) -> np.ndarray | None:
        """The index of the example that each row belongs to, int64 [rows]; None where row i is example i."""
        return None

    def lengths(self) -> np.ndarray | None:
        """Length of each row, int64 [rows], where each batch is padded to its own; None where all are equal."""
        return None

    def num_tokens(self) -> np.ndarray | None:
        """Of each length, how much is not padding; None where `lengths` is."""
        return None

    @property
    def longest(self) -> int | None:
        """The most that a row may be padded to, where there is such a limit."""
        return None

    def batch(self, indices: np.ndarray, epochs: np.ndarray, length: int | None) -> Batch:
        """The named arrays of these rows, each with a leading batch axis.

        `epochs` seeds what is random about a row; `length` is the static length to pad to, where that applies.
        """
        raise TypeError(f"{type(self).__name__} has no batches")

    def first(self, count: int = 1) -> Batch:
        """The batch of the first rows, as they are in epoch 0."""
        return self.batch(np.arange(count), np.zeros(count, np.int64), None)
