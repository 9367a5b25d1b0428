"""Text as arrays: ragged token tables, sentence pairs, windows of a token stream."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from research.data.plans import Length
from research.data.rows import Rows
from research.data.tokenizer import BOS, EOS, PAD
from research.errors import UserError


@dataclasses.dataclass(frozen=True)
class Ragged:
    """Token sequences of different length in one flat array: integer `tokens`, int64 `starts` and `ends` [count]."""

    tokens: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    @classmethod
    def of_lengths(cls, tokens: np.ndarray, lengths: np.ndarray) -> "Ragged":
        """Sequences of these lengths, one after the other."""
        ends = np.cumsum(lengths, dtype=np.int64)
        return cls(tokens, ends - lengths, ends)

    @classmethod
    def from_lists(cls, sequences: Sequence[Sequence[int]]) -> "Ragged":
        """Packs lists of token ids."""
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        return cls.of_lengths(np.fromiter(itertools.chain(*sequences), np.int32, lengths.sum()), lengths)

    def __len__(self) -> int:
        return len(self.ends)

    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, int64 [count]."""
        return self.ends - self.starts

    def part(self, indices: np.ndarray) -> "Ragged":
        """The sequences `indices`; the tokens are the same array."""
        return Ragged(self.tokens, self.starts[indices], self.ends[indices])

    def padded(self, indices: np.ndarray, length: int, fill: int = PAD) -> np.ndarray:
        """The sequences `indices`, cut at `length` and filled up to it: int32 [len(indices), length]."""
        columns = np.arange(length)
        starts = self.starts[indices][:, None]
        inside = columns < (self.ends[indices][:, None] - starts)
        if not len(self.tokens):
            return np.full((len(indices), length), fill, np.int32)
        return np.where(inside, self.tokens[np.where(inside, starts + columns, 0)], np.int32(fill))


@dataclasses.dataclass(frozen=True)
class SentencePairs(Rows):
    """Source and target sentences. A batch holds, int32 [batch, length]:

    source (ends in EOS), target_input (starts with BOS) and target_output (ends in EOS); `pad` fills the rest.
    """

    source: Ragged
    target: Ragged
    max_length: int
    pad: int = PAD

    @classmethod
    def from_lists(
        cls,
        source: Sequence[Sequence[int]],
        target: Sequence[Sequence[int]],
        max_length: int,
        *,
        source_eos: int = EOS,
        bos: int = BOS,
        eos: int = EOS,
        pad: int = PAD,
    ) -> "SentencePairs":
        """Adds the end marker to both sides and the start marker to the target; `max_length` counts either with it.

        source_eos: of the source's vocabulary. bos, eos: of the target's. pad: of both.
        """
        return cls(
            Ragged.from_lists([[*tokens, source_eos] for tokens in source]),
            Ragged.from_lists([[bos, *tokens, eos] for tokens in target]),
            max_length,
            pad,
        )

    def part(self, indices: np.ndarray) -> "SentencePairs":
        """The pairs `indices`."""
        return dataclasses.replace(self, source=self.source.part(indices), target=self.target.part(indices))

    def __len__(self) -> int:
        return len(self.source)

    def lengths(self) -> np.ndarray:
        """The longer side of each pair as the model sees it, cut at `max_length`, int64 [count]."""
        return np.minimum(np.maximum(self.source.lengths(), self.target.lengths() - 1), self.max_length)

    @property
    def longest(self) -> int:
        return self.max_length

    def tokens(self) -> np.ndarray:
        """The mean of the two sides' tokens, cut likewise: what of `lengths` is not padding, float64 [count]."""
        sides = self.source.lengths(), self.target.lengths() - 1
        source, target = (np.minimum(side, self.max_length) for side in sides)
        return (source + target) / 2

    def batch(self, indices: np.ndarray, epochs: np.ndarray, length: Length | None) -> dict[str, np.ndarray]:
        length = length or self.max_length
        assert isinstance(length, int)  # a pair has one length, no height and width
        target = self.target.padded(indices, length + 1, self.pad)
        target_output = target[:, 1:]
        # The end marker is predicted, never fed: it would be one more position to compute for nothing.
        target_input = np.where(target_output == self.pad, np.int32(self.pad), target[:, :-1])
        return {
            "source": self.source.padded(indices, length, self.pad),
            "target_input": target_input,
            "target_output": target_output,
        }


@dataclasses.dataclass(frozen=True)
class TokenWindows(Rows):
    """Consecutive windows of a token stream. A batch holds, int32 [batch, length + 1]:

    tokens (inputs and, shifted by one, targets) and bytes (of the text, that each of them stands for); what lies beyond
    the end of the stream is -1 and 0.

    In training every epoch starts its windows at another offset, so that no token is always first in its window;
    in evaluation every token but the first is predicted exactly once.

    stride: of evaluation: a window begins that many tokens behind the one before, not `length`, and `fresh`, bool
    [batch, length], says which of its targets that one did not have.
    """

    stream: np.ndarray
    bytes: np.ndarray
    length: int
    seed: int | None
    stride: int | None = None

    def __post_init__(self):
        if len(self.stream) < 2 or (self.seed is not None and len(self.stream) < 2 * self.length):
            raise UserError(
                f"task.length {self.length} does not fit a text of {len(self.stream)} tokens: "
                f"use at most {max(1, len(self.stream) // 2)} or a longer text"
            )

    def __len__(self) -> int:
        if self.seed is None:
            return 1 + max(0, -(-(len(self.stream) - 1 - self.length) // (self.stride or self.length)))
        return (len(self.stream) - self.length) // self.length

    def batch(self, indices: np.ndarray, epochs: np.ndarray, length: Length | None) -> dict[str, np.ndarray]:
        starts = indices * (self.stride or self.length)
        if self.seed is not None:
            starts = starts + _epoch_offsets(self.seed, epochs, self.length)
        positions = starts[:, None] + np.arange(self.length + 1)
        inside = positions < len(self.stream)
        positions = np.where(inside, positions, 0)
        arrays = {"tokens": (self.stream, np.int32(-1)), "bytes": (self.bytes, np.int32(0))}
        batch: dict[str, np.ndarray] = {
            name: np.where(inside, array[positions], fill).astype(np.int32) for name, (array, fill) in arrays.items()
        }
        if self.stride is not None:
            seen = np.where(indices > 0, self.length - self.stride, 0)
            batch["fresh"] = np.arange(self.length) >= seen[:, None]
        return batch


def sixteen_bits(sizes: np.ndarray) -> np.ndarray:
    """Sizes as uint16, with the same sum: what one has over 65,535 is counted with the next, the last's with the first.

    sizes: int64 [n], with a sum of at most 65,535 n.
    """
    while (over := np.maximum(sizes - 65535, 0)).any():
        sizes = sizes - over + np.roll(over, 1)
    return sizes.astype(np.uint16)


def _epoch_offsets(seed: int, epochs: np.ndarray, length: int) -> np.ndarray:
    unique, rows = np.unique(epochs, return_inverse=True)
    return np.array([np.random.default_rng((seed, int(epoch))).integers(length) for epoch in unique])[rows]


@dataclasses.dataclass(frozen=True)
class Prompts(Rows):
    """Beginnings of texts to be continued. A batch holds `tokens`, int32 [batch, length], and `prompt_length`."""

    prompts: Ragged
    length: int
    pad: int = PAD

    @classmethod
    def from_lists(cls, prompts: Sequence[Sequence[int]], length: int, pad: int = PAD) -> "Prompts":
        """`length` has room for prompt and continuation, which `pad` fills."""
        return cls(Ragged.from_lists(prompts), length, pad)

    def __len__(self) -> int:
        return len(self.prompts)

    def batch(self, indices: np.ndarray, epochs: np.ndarray, length: Length | None) -> dict[str, np.ndarray]:
        return {
            "tokens": self.prompts.padded(indices, self.length, self.pad),
            "prompt_length": self.prompts.lengths()[indices].astype(np.int32),
        }
