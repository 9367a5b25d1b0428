"""Windows of texts with masked tokens, drawn anew in every epoch (Devlin et al. 2019, section 3.1 and appendix A.1)."""

import dataclasses

import numpy as np

from research.data.plans import Length
from research.data.randomness import generator
from research.data.rows import Batch, Rows
from research.data.tokenizer import TrainedTokenizer

SHORTEST = 4
"""Tokens of a window: shorter ones, such as what is left at the end of a text, are left out."""
AS_MASK, AS_RANDOM = 0.8, 0.1
"""Fractions of the masked tokens that become [MASK] and any token; the rest stay as they are."""
TRIES = 20
"""Draws of a segment of another text, before one of the same text is taken."""


def windows_of(tokens: np.ndarray, end_token: int, room: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts and ends of windows of at most `room` tokens, and the number of the text that each lies in, int64.

    tokens: texts, each with `end_token` behind it, which no window holds.
    """
    ends = np.flatnonzero(np.asarray(tokens == end_token))
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    counts = -(-(ends - starts) // room)
    texts = np.repeat(np.arange(len(ends)), counts)
    number = np.arange(len(texts)) - np.repeat(np.cumsum(counts) - counts, counts)
    first = starts[texts] + number * room
    last = np.minimum(first + room, ends[texts])
    kept = last - first >= SHORTEST
    return first[kept], last[kept], texts[kept]


@dataclasses.dataclass(frozen=True)
class Marks:
    """What masking has to know of a vocabulary: its marks, how many tokens it has, and, where all pieces of a word are
    masked together, which of them continue a word, bool [vocabulary]."""

    cls: int
    sep: int
    mask: int
    pad: int
    vocab_size: int
    continues: np.ndarray | None

    @classmethod
    def of(cls, vocabulary: TrainedTokenizer, whole_words: bool) -> "Marks":
        """Those of a vocabulary; of whole words a WordPiece one, in which "##" begins what continues a word."""
        assert vocabulary.mask is not None and vocabulary.pad is not None
        tokens = [vocabulary.id_to_token(token) for token in range(vocabulary.vocab_size)] if whole_words else []
        continues = np.array([token.startswith("##") for token in tokens]) if whole_words else None
        start, end = vocabulary.start_token, vocabulary.end_token
        return cls(start, end, vocabulary.mask, vocabulary.pad, vocabulary.vocab_size, continues)


@dataclasses.dataclass(frozen=True)
class MaskedRows(Rows):
    """A batch holds `tokens` and `segments`, int32 [batch, length]; `places`, `labels` (int32) and `masked` (float32, 1
    where there is one) of the tokens to be found, [batch, most of them]; and with `pairs` whether the second segment is
    from another text: `other`, int32 [batch].

    starts, ends, texts: of each window, as `windows_of` gives.
    """

    stream: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    texts: np.ndarray
    marks: Marks
    masked: float
    pairs: bool
    seed: int
    length: int

    def __len__(self) -> int:
        return len(self.starts)

    def lengths(self) -> np.ndarray:
        return self.ends - self.starts + (3 if self.pairs else 2)

    @property
    def longest(self) -> int:
        return self.length

    def batch(self, indices: np.ndarray, epochs: np.ndarray, length: Length | None) -> Batch:
        length = self.length if length is None else length
        assert isinstance(length, int)
        most = max(1, round(self.masked * length))
        shapes = {"tokens": length, "segments": length, "places": most, "labels": most}
        batch: Batch = {name: np.zeros((len(indices), size), np.int32) for name, size in shapes.items()}
        batch["tokens"].fill(self.marks.pad)
        batch["masked"] = np.zeros((len(indices), most), np.float32)
        other = np.zeros(len(indices), np.int32)
        for row, (index, epoch) in enumerate(zip(indices, epochs, strict=True)):
            draw = generator(self.seed, epoch, index, "tokens")
            tokens, second, other[row] = self._row(int(index), draw)
            places = self._places(tokens, draw)[:most]
            batch["labels"][row, : len(places)] = tokens[places]
            tokens[places] = self._replaced(tokens[places], draw)
            batch["tokens"][row, : len(tokens)] = tokens
            batch["segments"][row, second : len(tokens)] = 1
            batch["places"][row, : len(places)] = places
            batch["masked"][row, : len(places)] = 1
        return batch | {"other": other} if self.pairs else batch

    def _row(self, index: int, draw: np.random.Generator) -> tuple[np.ndarray, int, int]:
        """The tokens of a row with its marks, where its second segment begins, and whether that is another text's."""
        tokens = np.array(self.stream[self.starts[index] : self.ends[index]], np.int32)
        if not self.pairs:
            return np.concatenate([[self.marks.cls], tokens, [self.marks.sep]], dtype=np.int32), len(tokens) + 2, 0
        cut = int(draw.integers(1, len(tokens)))
        first, second, other = tokens[:cut], tokens[cut:], 0
        if draw.random() < 0.5:
            second, other = self._elsewhere(index, len(second), draw), 1
        row = np.concatenate([[self.marks.cls], first, [self.marks.sep], second, [self.marks.sep]], dtype=np.int32)
        return row, len(first) + 2, other

    def _elsewhere(self, index: int, count: int, draw: np.random.Generator) -> np.ndarray:
        """At most `count` tokens from the start of a window of another text."""
        place = index
        for _ in range(TRIES):
            place = int(draw.integers(len(self.starts)))
            if self.texts[place] != self.texts[index]:
                break
        start = int(self.starts[place])
        return np.array(self.stream[start : min(start + count, int(self.ends[place]))], np.int32)

    def _places(self, tokens: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """The places to be masked, in order: the fraction `masked` of the tokens that are not marks, or one."""
        places = np.flatnonzero((tokens != self.marks.cls) & (tokens != self.marks.sep))
        count = max(1, round(self.masked * len(places)))
        if self.marks.continues is None:
            return np.sort(draw.permutation(places)[:count])
        begins = ~self.marks.continues[tokens[places]] | (np.diff(places, prepend=-1) > 1)
        words = np.split(places, np.flatnonzero(begins)[1:] if begins[0] else np.flatnonzero(begins))
        chosen: list[np.ndarray] = []
        for word in draw.permutation(len(words)):
            if len(words[word]) <= count:
                chosen.append(words[word])
                count -= len(words[word])
        return np.sort(np.concatenate(chosen)) if chosen else places[:0]

    def _replaced(self, tokens: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """What stands in the place of masked tokens."""
        chance, random = draw.random(len(tokens)), draw.integers(self.marks.vocab_size, size=len(tokens))
        kept = np.where(chance < AS_MASK + AS_RANDOM, random, tokens)
        return np.where(chance < AS_MASK, self.marks.mask, kept).astype(np.int32)
