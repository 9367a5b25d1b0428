"""Batch plans: pure functions from a step to the examples of its batch.

A plan knows nothing of what the examples hold. Since the batch of step *t* depends on (seed, t) alone, a run resumes
with nothing but its step, and the stream of examples is the same for any number of hosts, devices or reading threads.
"""

import dataclasses
import functools
import math
from typing import Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Selection:
    """The examples of one batch: their indices, the epoch each is read in, and the length they are padded to.

    An index of -1 is padding: it fills the batch up to its static shape and carries weight 0.
    """

    indices: np.ndarray
    epochs: np.ndarray
    length: int | None = None


class Plan(Protocol):
    """What the loader and the training loop ask of a plan."""

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every example is read once (a fraction where batches span epochs)."""

    @property
    def num_examples(self) -> int:
        """Examples that the plan reads in an epoch."""

    def __call__(self, step: int) -> Selection:
        """The batch of `step`."""


@dataclasses.dataclass(frozen=True)
class Shuffled:
    """Every epoch a fresh permutation; batches run on across the end of an epoch, so nothing is dropped."""

    num_examples: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> float:
        return self.num_examples / self.batch_size

    def __call__(self, step: int) -> Selection:
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, offsets = np.divmod(positions, self.num_examples)
        indices = np.empty(self.batch_size, np.int64)
        for epoch in np.unique(epochs):
            rows = epochs == epoch
            indices[rows] = _permutation(self.num_examples, self.seed, int(epoch))[offsets[rows]]
        return Selection(indices, epochs)


@dataclasses.dataclass(frozen=True)
class InOrder:
    """Each example once, in order; the last batch is filled up with padding. For evaluation and prediction."""

    num_examples: int
    batch_size: int

    @property
    def steps_per_epoch(self) -> float:
        return math.ceil(self.num_examples / self.batch_size)

    def __call__(self, step: int) -> Selection:
        indices = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        indices[indices >= self.num_examples] = -1
        return Selection(indices, np.zeros_like(indices))


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A static shape: examples up to `length` long, `batch_size` at a time."""

    length: int
    batch_size: int


def make_buckets(
    lengths: np.ndarray,
    count: int,
    *,
    batch_size: int | None = None,
    batch_tokens: int | None = None,
    multiple: int = 1,
) -> tuple[Bucket, ...]:
    """At most `count` buckets whose lengths waste the fewest padding tokens on examples of these lengths.

    Batches have `batch_size` examples, or about `batch_tokens` tokens, padding included; a multiple of `multiple`.
    """
    candidates, counts = np.unique(lengths, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])
    # padded[j] after k rounds: the tokens that the shortest j candidates fill in k buckets; best cut kept for each.
    padded = np.where(np.arange(len(below)) == 0, 0.0, np.inf)
    cuts = []
    for _ in range(min(count, len(candidates))):
        cost = padded[None, :-1] + (below[1:, None] - below[None, :-1]) * candidates[:, None]
        cost[np.triu_indices(len(candidates), 1)] = np.inf
        cuts.append(cost.argmin(axis=1))
        padded = np.concatenate([[0.0], cost.min(axis=1)])
    ends, end = [], len(candidates)
    for cut in reversed(cuts):
        if end == 0:
            break
        ends.append(int(candidates[end - 1]))
        end = cut[end - 1]
    sizes = [batch_size or max(batch_tokens // length // multiple, 1) * multiple for length in ends]
    return tuple(Bucket(length, size) for length, size in sorted(zip(ends, sizes, strict=True)))


@dataclasses.dataclass(frozen=True, eq=False)
class Bucketed:
    """Batches of examples of about equal length, padded to the length of their bucket.

    lengths: of every example; those longer than the last bucket are left out. seed: every epoch shuffles the examples
    of each bucket and then the batches; None reads by ascending length, for evaluation. The last batch of a bucket is
    filled up with padding, so that an epoch reads every example once.
    """

    lengths: np.ndarray
    buckets: tuple[Bucket, ...]
    seed: int | None

    @functools.cached_property
    def _members(self) -> list[np.ndarray]:
        """The examples of each bucket, by ascending length."""
        order = np.argsort(self.lengths, kind="stable")
        ends = np.searchsorted(self.lengths[order], [bucket.length for bucket in self.buckets], side="right")
        return np.split(order, ends)[:-1]

    @functools.cached_property
    def _batches(self) -> np.ndarray:
        """(bucket, batch within it) of every batch of an epoch, int64 [steps_per_epoch, 2]."""
        return np.array(
            [
                (number, batch)
                for number, (bucket, members) in enumerate(zip(self.buckets, self._members, strict=True))
                for batch in range(math.ceil(len(members) / bucket.batch_size))
            ]
        )

    @property
    def steps_per_epoch(self) -> float:
        return len(self._batches)

    @property
    def num_examples(self) -> int:
        return sum(map(len, self._members))

    def padding(self, tokens: np.ndarray) -> float:
        """The share of padding in an epoch's batches, when example i has `tokens[i]` tokens of its bucket's length."""
        slots = sum(self.buckets[number].length * self.buckets[number].batch_size for number, _ in self._batches)
        return 1 - sum(tokens[members].sum() for members in self._members) / slots

    def __call__(self, step: int) -> Selection:
        epoch, position = divmod(step, len(self._batches))
        if self.seed is not None:
            position = _permutation(len(self._batches), self.seed, epoch)[position]
        number, batch = self._batches[position]
        bucket, members = self.buckets[number], self._members[number]
        if self.seed is not None:
            # Each bucket has a stream of its own, apart from that of the batches.
            members = members[_permutation(len(members), self.seed, epoch, int(number) + 1)]
        chosen = members[batch * bucket.batch_size : (batch + 1) * bucket.batch_size]
        indices = np.full(bucket.batch_size, -1, np.int64)
        indices[: len(chosen)] = chosen
        return Selection(indices, np.full_like(indices, epoch), bucket.length)


@functools.lru_cache(maxsize=64)
def _permutation(size: int, *key: int) -> np.ndarray:
    """The order of one epoch, remembered: consecutive steps ask for the same one."""
    return np.random.default_rng(key).permutation(size)
