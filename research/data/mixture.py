"""Several sources as one: training reads from each as often as its weight says."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from research.data.plans import Length
from research.data.rows import Batch, Rows
from research.data.source import Mixed, Source, check_split
from research.errors import UserError
from research.ranges import NESTED, Positive


@dataclass(frozen=True)
class Mixture(Source):
    """Sources of one kind, such as texts for one language model.

    sources: sections like `data`, each with a name. weights: how much of training comes from each, relative to the
    others; as much as each has rows unless given. An epoch has as many rows as all sources together: a source whose
    weight is twice its share is read twice in it, of one whose weight is half of that every epoch reads another half.
    Validation and test read everything once, of the sources that have such a split.
    """

    sources: Annotated[tuple[Any, ...], NESTED]
    weights: tuple[Positive, ...] | None = None

    def __post_init__(self):
        if not self.sources:
            raise UserError("data.sources is empty: name the sources of the mixture")
        if self.weights is not None and len(self.weights) != len(self.sources):
            raise UserError(
                f"data.weights has {len(self.weights)} numbers for {len(self.sources)} sources: give one each"
            )
        if len({getattr(source, "class_names", None) for source in self.sources}) > 1:
            raise UserError("the sources of a mixture have different classes: use sources with the same ones")

    @property
    def splits(self) -> tuple[str, ...]:
        found = [source.splits for source in self.sources]
        for number, splits in enumerate(found, 1):
            if "train" not in splits:
                raise UserError(f"source {number} of the mixture has no train split: leave it out")
        return tuple(split for split in ("train", "validation", "test") if any(split in splits for splits in found))

    def examples(self, split: str) -> Mixed:
        check_split(split, self.splits)
        parts = [source.examples(split) for source in self.sources if split in source.splits]
        return Mixed(tuple(parts), self.weights if split == "train" else None)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of each source."""
        return getattr(self.sources[0], "class_names", ())

    @property
    def image_shape(self) -> tuple[int | None, int | None, int]:
        return self.sources[0].image_shape

    def fingerprint(self, split: str) -> str:
        parts = [source.fingerprint(split) for source in self.sources if split in source.splits]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def paths(self) -> tuple[str, ...]:
        return tuple(path for source in self.sources for path in source.paths())

    def left_out(self, split: str) -> Sequence[str]:
        return [sentence for source in self.sources if split in source.splits for sentence in source.left_out(split)]


class MixedRows(Rows):
    """Rows of several parts, all of one shape; in training a part has as many of an epoch's rows as its weight says.

    Row i of a part's n rows in epoch e is the part's row (e n + i) modulo its own number of rows, so that after some
    epochs each of them was read equally often.
    """

    def __init__(self, parts: Sequence[Rows], weights: Sequence[float] | None):
        if any(part.lengths() is not None for part in parts):
            raise UserError("a mixture needs rows of one length, as windows of texts or images of one size are")
        self._parts = parts
        own = np.array([len(part) for part in parts])
        shares = own if weights is None else np.array(weights)
        self._counts = np.maximum(np.round(own.sum() * shares / shares.sum()).astype(int), 1)

    def __len__(self) -> int:
        return int(self._counts.sum())

    def batch(self, indices: np.ndarray, epochs: np.ndarray, length: Length | None) -> Batch:
        ends = np.cumsum(self._counts)
        owners = np.searchsorted(ends, indices, side="right")
        batch: Batch = {}
        for number, part in enumerate(self._parts):
            mine = np.flatnonzero(owners == number)
            if not len(mine):
                continue
            places = epochs[mine] * self._counts[number] + indices[mine] - (ends[number] - self._counts[number])
            rounds, rows = np.divmod(places, len(part))
            for name, array in part.batch(rows, rounds, length).items():
                whole = batch.setdefault(name, np.zeros((len(indices), *array.shape[1:]), array.dtype))
                whole[mine] = array
        return batch
