"""Batch plans: pure functions from a step to the examples of its batch.

A plan knows nothing of what the examples hold. Since the batch of step *t* depends on (seed, t) alone, a run resumes
with nothing but its step, and the stream of examples is the same for any number of hosts, devices or reading threads.
"""

import dataclasses
import functools
import math
from typing import Protocol

import numpy as np

MOST_GROUPS = 256
"""Of sizes, before the first two become one."""

Length = int | tuple[int, int]
"""What examples are padded to: a length, or height and width."""


@dataclasses.dataclass(frozen=True)
class Selection:
    """The examples of one batch: their indices, the epoch each is read in, and the length they are padded to.

    An index of -1 is padding: it fills the batch up to its static shape and carries weight 0.
    """

    indices: np.ndarray
    epochs: np.ndarray
    length: Length | None = None


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
    """Every epoch a fresh permutation; batches run on across the end of an epoch, so nothing is dropped.

    repeats: repeated augmentation (Hoffer et al. 2020): a batch holds each of its examples so often (the last copies
    are left out where it does not divide), every copy read as of another epoch and far from the others in the batch.
    An epoch has as many steps as without and reads one of `repeats` examples, as in DeiT (Touvron et al. 2021); the
    next epoch continues with the rest.
    """

    num_examples: int
    batch_size: int
    seed: int | tuple[int, ...]
    repeats: int = 1

    @property
    def steps_per_epoch(self) -> float:
        return self.num_examples / self.batch_size

    def __call__(self, step: int) -> Selection:
        count = -(-self.batch_size // self.repeats)
        positions = np.arange(step * count, (step + 1) * count)
        passes, offsets = np.divmod(positions, self.num_examples)
        indices = np.empty(count, np.int64)
        for number in np.unique(passes):
            rows = passes == number
            indices[rows] = _permutation(self.num_examples, self.seed, int(number))[offsets[rows]]
        epochs = passes * self.repeats + np.arange(self.repeats)[:, None]
        return Selection(np.tile(indices, self.repeats)[: self.batch_size], epochs.reshape(-1)[: self.batch_size])


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
    """A static shape: examples up to `length` long, or up to a height and width, `batch_size` at a time."""

    length: Length
    batch_size: int

    @property
    def slots(self) -> int:
        """Places for the tokens or pixels of an example, padding included."""
        return int(np.prod(self.length))


def make_buckets(
    lengths: np.ndarray,
    count: int,
    *,
    batch_size: int | None = None,
    batch_tokens: int | None = None,
) -> tuple[Bucket, ...]:
    """At most `count` buckets for examples of these lengths, int64 [n], or heights and widths, int64 [n, 2].

    Lengths are cut where the fewest padding tokens are wasted; sizes are grouped as `size_groups` does. Batches have
    `batch_size` examples, or about `batch_tokens` tokens (or pixels), padding included.
    """
    ends = _best_ends(lengths, count) if lengths.ndim == 1 else size_groups(lengths, count)
    buckets = [Bucket(end, batch_size or max((batch_tokens or 0) // int(np.prod(end)), 1)) for end in ends]
    return tuple(sorted(buckets, key=lambda bucket: (bucket.slots, bucket.length)))


def _best_ends(lengths: np.ndarray, count: int) -> list[int]:
    """The longest lengths of at most `count` buckets that together waste the least."""
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
    return ends


def size_groups(sizes: np.ndarray, count: int, multiple: int = 32) -> list[tuple[int, int]]:
    """At most `count` pairs (height, width), one of which at least holds each of the sizes, int64 [n, 2].

    Sizes whose sides are the same after rounding up to a multiple are a group: upright, square and wide images are
    apart. While there are too many groups, the two whose union wastes the least padding become one.
    """
    while len(np.unique(-(-sizes // multiple), axis=0)) > MOST_GROUPS:
        multiple *= 2
    ends, counts = np.unique(-(-sizes // multiple) * multiple, axis=0, return_counts=True)
    while len(ends) > count:
        unions, padded = np.maximum(ends[:, None], ends), ends.prod(axis=1) * counts
        waste = unions.prod(axis=2) * (counts[:, None] + counts) - padded[:, None] - padded + 0.0
        np.fill_diagonal(waste, np.inf)
        one, other = np.unravel_index(waste.argmin(), waste.shape)
        ends[one], counts[one] = unions[one, other], counts[one] + counts[other]
        ends, counts = np.delete(ends, other, axis=0), np.delete(counts, other)
    return sorted({tuple(end) for end in ends.tolist()})


@dataclasses.dataclass(frozen=True, eq=False)
class Bucketed:
    """Batches of examples of about equal length, or height and width, padded to those of their bucket.

    Every bucket is a stream of its own that runs on across the end of an epoch, as in `Shuffled`, so that all batches
    are full; the order of an epoch's batches is shuffled over the buckets.

    lengths: of every example, int64 [n], or its height and width, int64 [n, 2]; those that fit into no bucket are left
    out. tokens: what an example really holds of its length, where that is the longer of two sequences, or of its area.
    """

    lengths: np.ndarray
    tokens: np.ndarray
    buckets: tuple[Bucket, ...]
    seed: int

    @functools.cached_property
    def _members(self) -> list[np.ndarray]:
        return _bucket_members(self.lengths, self.buckets)

    @property
    def steps_per_epoch(self) -> float:
        pairs = zip(self.buckets, self._members, strict=True)
        return sum(len(members) / bucket.batch_size for bucket, members in pairs)

    @property
    def num_examples(self) -> int:
        return sum(map(len, self._members))

    @property
    def padding(self) -> float:
        """The share of padding in the batches."""
        slots = sum(bucket.slots * len(members) for bucket, members in zip(self.buckets, self._members, strict=True))
        return 1 - sum(float(self.tokens[members].sum()) for members in self._members) / slots

    def _batches_before(self, epoch: int) -> np.ndarray:
        """Batches of each bucket that are full when this number of epochs has been read."""
        pairs = zip(self.buckets, self._members, strict=True)
        return np.array([epoch * len(members) // bucket.batch_size for bucket, members in pairs])

    def __call__(self, step: int) -> Selection:
        epoch = int(step / self.steps_per_epoch)
        while self._batches_before(epoch + 1).sum() <= step:  # epochs differ by what of a batch they leave to the next
            epoch += 1
        while self._batches_before(epoch).sum() > step:
            epoch -= 1
        before, after = self._batches_before(epoch), self._batches_before(epoch + 1)
        position = _permutation(int((after - before).sum()), self.seed, epoch)[step - before.sum()]
        ends = np.cumsum(after - before)
        number = int(np.searchsorted(ends, position, side="right"))
        batch = int(after[number] - (ends[number] - position))
        bucket, members = self.buckets[number], self._members[number]
        stream = Shuffled(len(members), bucket.batch_size, (self.seed, number))(batch)
        return Selection(members[stream.indices], stream.epochs, bucket.length)


@dataclasses.dataclass(frozen=True, eq=False)
class ByLength:
    """Each example once, by ascending bucket and length, padded to that of its bucket. For evaluation and prediction.

    lengths: int64 [n], or heights and widths, int64 [n, 2].
    """

    lengths: np.ndarray
    buckets: tuple[Bucket, ...]

    @functools.cached_property
    def _batches(self) -> list[Selection]:
        batches = []
        for bucket, members in zip(self.buckets, _bucket_members(self.lengths, self.buckets), strict=True):
            for start in range(0, len(members), bucket.batch_size):
                indices = np.full(bucket.batch_size, -1, np.int64)
                chosen = members[start : start + bucket.batch_size]
                indices[: len(chosen)] = chosen
                batches.append(Selection(indices, np.zeros_like(indices), bucket.length))
        return batches

    @property
    def steps_per_epoch(self) -> float:
        return len(self._batches)

    @property
    def num_examples(self) -> int:
        return len(self.lengths)

    def __call__(self, step: int) -> Selection:
        return self._batches[step]


def _bucket_members(lengths: np.ndarray, buckets: tuple[Bucket, ...]) -> list[np.ndarray]:
    """The examples of each bucket, by ascending length or area: those that fit into none of the buckets before it."""
    sizes = lengths.reshape(len(lengths), -1)
    order = np.argsort(sizes.prod(axis=1), kind="stable")
    members = []
    for bucket in buckets:
        fits = (sizes[order] <= bucket.length).all(axis=1)
        members.append(order[fits])
        order = order[~fits]
    return members


@functools.lru_cache(maxsize=64)
def _permutation(size: int, seed: int | tuple[int, ...], epoch: int) -> np.ndarray:
    """The order of one epoch, remembered: consecutive steps ask for the same one."""
    seeds = seed if isinstance(seed, tuple) else (seed,)
    return np.random.default_rng((*seeds, epoch)).permutation(size)
