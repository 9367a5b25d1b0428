"""Tokenizers: characters, words, byte-pair encoding or unigram pieces, trained on the task's texts, kept by the run.

All kinds but "whitespace" are lossless on the text they were trained on: spaces, runs of them, newlines and
non-breaking spaces are tokens or part of tokens, nothing is normalised, and decoding only joins. Special tokens are
ids, never text: the letters "</s>" in a file are encoded as letters; as a word between spaces it is unknown.
"""

import functools
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from research.data.tokenizer_rules import BOS, BYTES, EOS, PAD, SPECIAL_TOKENS, UNK, library, ours, pipeline
from research.errors import UserError
from research.files import Unreadable, read_json, write_text
from research.ranges import Size

SPECIAL_WORDS = re.compile(rf"(?<!\S)({'|'.join(SPECIAL_TOKENS)})(?!\S)")


class TrainedTokenizer:
    """Text to ids and back. `specials` tells whether ids 0 to 3 are the special tokens."""

    def __init__(self, tokenizer: tokenizers.Tokenizer):
        self._tokenizer = tokenizer
        self.specials = tokenizer.token_to_id(SPECIAL_TOKENS[PAD]) == PAD

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return self._tokenizer.get_vocab_size()

    @property
    def end_token(self) -> int:
        """The id that ends a text; -1, which no token has, where there are no special tokens."""
        return EOS if self.specials else -1

    @functools.cached_property
    def token_bytes(self) -> list[int]:
        """Bytes of UTF-8 that each id stands for; 0 for special tokens."""
        tokens = [self.id_to_token(token) for token in range(self.vocab_size)]
        # The byte-level alphabet has one printable character a byte.
        byte_level = isinstance(self._tokenizer.decoder, decoders.ByteLevel)
        lengths = [len(token) if byte_level else len(token.encode()) for token in tokens]
        if isinstance(self._tokenizer.model, models.Unigram):
            lengths = [1 if token in BYTES else length for token, length in zip(tokens, lengths, strict=True)]
        return [0] * len(SPECIAL_TOKENS) + lengths[len(SPECIAL_TOKENS) :] if self.specials else lengths

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens; what the vocabulary lacks becomes UNK.

        Raises a UserError for such a text if the vocabulary was made without special tokens.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, encoded in parallel."""
        with library("a text holds something that was not seen in training", "set tokenizer.specials to True"):
            try:
                encoded = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
            except TypeError as error:  # how a byte of another encoding looks on a command line
                raise UserError("a text holds a lone surrogate, which is no character: convert it to UTF-8") from error
        if self.specials and isinstance(self._tokenizer.pre_tokenizer, pre_tokenizers.WhitespaceSplit):
            return [[max(token, UNK) for token in ids] for ids in encoded]  # a word "</s>" ends no text
        return encoded

    def encode_lines(self, lines: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of the lines of a text, one after the other, and where in the text's UTF-8 each token ends.

        int32 and int64 [tokens]. Unknown tokens end where their text ends; what lies between tokens belongs to none.
        """
        encoded = self.encode_batch(lines)
        tokens = np.fromiter(itertools.chain(*encoded), np.int32)
        counts = np.array([len(line) for line in encoded], np.int64)
        sizes = np.array([len(line.encode()) for line in lines], np.int64)
        starts = np.cumsum(sizes) - sizes
        upto = np.cumsum([0, *np.array(self.token_bytes)[tokens]])
        found = upto[np.cumsum(counts)] - upto[np.cumsum(counts) - counts]
        ends = upto[1:] + np.repeat(starts - upto[np.cumsum(counts) - counts], counts)
        # Where the tokens are not all of a line, the slower encoding says which part of it each one is.
        partly = found != sizes
        ends[np.repeat(partly, counts)] = np.repeat(starts[partly], counts[partly]) + self._ends(
            [line for line, marked in zip(lines, partly, strict=True) if marked]
        )
        return tokens, ends

    def _ends(self, lines: Sequence[str]) -> np.ndarray:
        """Where in its own line's UTF-8 each token of some lines ends, int64 [tokens]."""
        offsets = [encoding.offsets for encoding in self._tokenizer.encode_batch(lines)]
        lengths = np.array([len(line) for line in lines], np.int64)
        first = np.repeat(
            np.cumsum(lengths) - lengths, [len(line) for line in offsets]
        )  # character of the token's line
        within = np.array([end for line in offsets for _, end in line], np.int64)
        characters = np.frombuffer("".join(lines).encode("utf-32-le"), np.uint32)
        upto = np.cumsum(np.append(0, 1 + sum((characters > last).astype(np.int64) for last in (0x7F, 0x7FF, 0xFFFF))))
        return upto[first + within] - upto[first]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` up to the first EOS; special tokens, UNK included, leave no text."""
        kept = []
        for token in map(int, ids):
            if self.specials and token == EOS:
                break
            if not (self.specials and token < len(SPECIAL_TOKENS)):
                kept.append(token)
        with library("tokens cannot be decoded", "restore tokenizer.json"):
            return self._tokenizer.decode(kept)

    def id_to_token(self, token: int) -> str:
        """The text of one id, for display; BPE shows bytes in GPT-2's printable alphabet (a space is "Ġ")."""
        return self._tokenizer.id_to_token(int(token))

    def save(self, path: str | Path) -> None:
        """Writes the vocabulary as the `tokenizers` library's JSON."""
        write_text(Path(path), self._tokenizer.to_str(pretty=True))

    @classmethod
    def load(cls, path: str | Path) -> "TrainedTokenizer":
        """Reads what `save` wrote; a UserError names a file that is missing, damaged or of another project.

        Only what this project makes is taken: the library would run any regular expression and rule of a file.
        """
        try:
            stored = read_json(Path(path))
        except Unreadable as error:
            reason = str(error).removeprefix(f"{path} ")
            raise UserError(f"{path} cannot be read as a tokenizer: it {reason}") from error
        if not ours(stored):
            raise UserError(f"{path} is a tokenizer of another make: use one that this project has saved")
        with library(f"{path} cannot be read as a tokenizer", "restore or delete it"):
            tokenizer = tokenizers.Tokenizer.from_str(json.dumps(stored))
        ids = [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS]
        if ids not in ([PAD, BOS, EOS, UNK], [None] * 4):
            raise UserError(f"{path} is a tokenizer with other special tokens: use one that this project has saved")
        return cls(tokenizer)


@dataclass(frozen=True)
class Tokenizer:
    """How to make a vocabulary.

    kind: "character" (one id per Unicode character, in sorted order), "word" (GPT-2-like splitting, the most frequent
    first), "whitespace" (what stands between single spaces, for text that is already tokenised), "bpe" (byte-level:
    nothing is ever unknown) or "unigram" (the most probable pieces, Kudo 2018 section 3.2; characters not seen in
    training become their bytes). vocab_size: the number of ids, special tokens included; needed for "bpe" and
    "unigram", of which little text fills less, an upper limit for "word" and "whitespace", not for "character".
    specials: whether ids 0 to 3 are PAD, BOS, EOS and UNK; only a language model over its own text can do without.
    """

    kind: Literal["character", "word", "whitespace", "bpe", "unigram"] = "word"
    vocab_size: Size | None = None
    specials: bool = True

    def __post_init__(self):
        if self.kind == "character" and self.vocab_size is not None:
            raise UserError("a character tokenizer keeps every character: set vocab_size to None")
        smallest = len(self._special_tokens) + {"bpe": 256, "unigram": 257}.get(self.kind, 1)
        if self.kind in ("bpe", "unigram") and self.vocab_size is None:
            raise UserError(f"a {self.kind} tokenizer needs a vocab_size of at least {smallest}, for example 8000")
        if self.vocab_size is not None and self.vocab_size < smallest:
            raise UserError(f"vocab_size {self.vocab_size} is too small for kind {self.kind}: use at least {smallest}")

    @property
    def _special_tokens(self) -> list[str]:
        return list(SPECIAL_TOKENS) if self.specials else []

    def train(self, texts: Iterable[str]) -> TrainedTokenizer:
        """Builds the vocabulary of `texts`; the same texts in the same order give the same ids."""
        makers = {
            "character": self._characters,
            "word": self._words,
            "whitespace": self._words,
            "bpe": self._bpe,
            "unigram": self._unigram,
        }
        with library("no vocabulary can be made of these texts", "check them, or use another task.tokenizer"):
            return TrainedTokenizer(makers[self.kind](texts))

    def _characters(self, texts: Iterable[str]) -> tokenizers.Tokenizer:
        characters = self._special_tokens + sorted(set().union(*texts))
        vocabulary = {character: index for index, character in enumerate(characters)}
        return pipeline(self.kind, models.WordLevel(vocabulary, unk_token=SPECIAL_TOKENS[UNK]))

    def _words(self, texts: Iterable[str]) -> tokenizers.Tokenizer:
        if self.kind == "whitespace":
            texts = map(self._without_specials, texts)
        tokenizer = pipeline(self.kind, models.WordLevel(unk_token=SPECIAL_TOKENS[UNK]))
        trainer = trainers.WordLevelTrainer(
            vocab_size=self.vocab_size or 2**31, special_tokens=self._special_tokens, show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
        return _without_added_tokens(tokenizer)

    def _without_specials(self, text: str) -> str:
        """Without words that read like special tokens: their ids are taken, so that they are unknown."""
        left = SPECIAL_WORDS.sub("", text)
        if left != text and not self.specials:
            raise UserError(f"the text has the word {SPECIAL_WORDS.search(text)[0]!r}: set tokenizer.specials to True")
        return left

    def _bpe(self, texts: Iterable[str]) -> tokenizers.Tokenizer:
        tokenizer = pipeline(self.kind, models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=self._special_tokens,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return _without_added_tokens(tokenizer)

    def _unigram(self, texts: Iterable[str]) -> tokenizers.Tokenizer:
        # Words keep their space, as in the other kinds, instead of SentencePiece's "\u2581", which a text may hold too.
        tokenizer = pipeline(self.kind, models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=self.vocab_size - len(BYTES) - len(self._special_tokens), show_progress=False
        )
        try:
            tokenizer.train_from_iterator(texts, trainer)
        except Exception as error:  # the library raises nothing more specific
            if "vocabulary" not in str(error):
                raise
            raise UserError(
                f"vocab_size {self.vocab_size} does not fit the training text ({error}): use a larger one, such as 8000"
            ) from error
        pieces = _settled(json.loads(tokenizer.to_str())["model"]["vocab"])
        # A text never matches these, as WORDS parts brackets from letters.
        reserved = [(token, 0.0) for token in self._special_tokens + BYTES]
        # The model asks for an unknown id, but bytes always take its place.
        tokenizer.model = models.Unigram(reserved + pieces, UNK if self.specials else 0, byte_fallback=True)
        return tokenizer


def _settled(pieces: list[list]) -> list[tuple[str, float]]:
    """Pieces and log-probabilities in one order, free of what the library leaves to chance.

    It adds the characters that its model had pruned with the lowest score, each 0.0001 above the one before in random
    order: here all get the lowest. Sums over threads leave noise in the last digits.
    """
    lowest = min((score for _, score in pieces), default=0.0)

    def settled(piece: str, score: float) -> float:
        steps = (score - lowest) * 1e4
        return lowest if len(piece) == 1 and abs(steps - round(steps)) < 1e-6 else score

    scores = {piece: round(settled(piece, score), 6) for piece, score in pieces}
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def _without_added_tokens(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    # Trainers also register the special tokens as text to look for, which would let a file inject them.
    return tokenizers.Tokenizer.from_str(json.dumps(json.loads(tokenizer.to_str()) | {"added_tokens": []}))
