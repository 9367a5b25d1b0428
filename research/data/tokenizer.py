"""Tokenizers: characters, words or pieces of words, trained on the task's texts or read from a file, kept by the run.

All kinds but "whitespace" and "wordpiece" are lossless on the text they were trained on: spaces, runs of them, newlines
and non-breaking spaces are tokens or part of tokens, nothing is normalised, and decoding only joins. Special tokens are
ids, never text: the letters "</s>" in a file are encoded as letters; as a word between spaces it is unknown.
"""

import functools
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from research.data.plain_text import joined
from research.data.sentencepiece import filled, is_sentencepiece
from research.data.tokenizer_kinds import train_bpe, train_characters, train_unigram, train_words
from research.data.tokenizer_rules import (
    BERT_TOKENS,
    BOS,
    BYTES,
    CLIP_ROLES,
    EOS,
    PAD,
    SPECIAL_TOKENS,
    UNK,
    bare,
    library,
    ours,
    published,
    roles_of,
    special_ids,
    with_merges,
)
from research.data.wordpiece import described_beside, pieces_of_lines, train_pieces
from research.errors import UserError
from research.files import Unreadable, read_text, write_json, write_text
from research.hub import PREFIX, fetched
from research.ranges import Size

__all__ = ["BOS", "EOS", "PAD", "SPECIAL_TOKENS", "UNK", "Kind", "Tokenizer", "TrainedTokenizer"]


VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json")
"""Files of a published model, of which the first that is there is its vocabulary."""


class TrainedTokenizer:
    """Text to ids and back.

    pad, bos, eos, unk: the ids of padding, of a text's start and end, and of the unknown. cls, sep, mask: BERT's and
    RoBERTa's, of which the first two also are its `bos` and `eos`. Each is None where the vocabulary has no such token.
    `specials` tells whether it has any.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer):
        self._tokenizer = tokenizer
        ids = special_ids(tokenizer)
        self.pad, self.bos, self.eos, self.unk = (ids.get(role) for role in ("pad", "bos", "eos", "unk"))
        self.cls, self.sep, self.mask = (ids.get(role) for role in ("cls", "sep", "mask"))
        self.specials = bool(ids)
        self.special = frozenset(ids.values())

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return self._tokenizer.get_vocab_size()

    @property
    def pads_with_end(self) -> bool:
        """Whether the mark that ends a text is also its padding, as in CLIP and SigLIP."""
        return self.pad is not None and self.pad == self.eos

    @functools.cached_property
    def dtype(self) -> np.dtype:
        """The smallest type of integers that has room for each id."""
        return np.dtype(np.uint16 if max(self.ids.values(), default=0) < 2**16 else np.int32)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the vocabulary and its rules."""
        return hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()

    @property
    def start_token(self) -> int:
        """The id that starts a text; -1, which no token has, where there are no special tokens."""
        return -1 if self.bos is None else self.bos

    @property
    def end_token(self) -> int:
        """The id that ends a text; -1 likewise."""
        return -1 if self.eos is None else self.eos

    @functools.cached_property
    def ids(self) -> dict[str, int]:
        """The id of each token."""
        return self._tokenizer.get_vocab()

    @functools.cached_property
    def token_bytes(self) -> list[int]:
        """Bytes of UTF-8 that each id stands for, of the normalised text in "wordpiece"; 0 for special tokens."""
        tokens = [self.id_to_token(token) for token in range(self.vocab_size)]
        # The byte-level alphabet has one printable character a byte.
        byte_level = isinstance(self._tokenizer.decoder, decoders.ByteLevel)
        lengths = [len(token) if byte_level else len(token.encode()) for token in tokens]
        if isinstance(self._tokenizer.model, models.Unigram):
            lengths = [1 if token in BYTES else length for token, length in zip(tokens, lengths, strict=True)]
        if self.parts_words:
            lengths = [len(token.removeprefix("##").encode()) for token in tokens]
        return [0 if token in self.special else length for token, length in enumerate(lengths)]

    @property
    def parts_words(self) -> bool:
        """Whether it is a BERT's, which normalises text and parts words into pieces that are marked as such."""
        return isinstance(self._tokenizer.model, models.WordPiece)

    @property
    def hides_special(self) -> bool:
        """Whether the library takes a word such as "</s>" for the token that ends a text: `encode` makes it UNK."""
        words = isinstance(self._tokenizer.pre_tokenizer, pre_tokenizers.WhitespaceSplit)
        return self.unk is not None and (words or is_sentencepiece(self._tokenizer))

    @property
    def marks_between(self) -> int:
        """How many times the mark of the end stands between two texts of a row: twice in a RoBERTa's rows."""
        return 1 if self.parts_words or self.mask is None else 2

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
                sentence = "a text holds a lone surrogate, which is not a character: convert it to UTF-8"
                raise UserError(sentence) from error
        if self.hides_special:
            unknown = self.unk or 0
            return [[unknown if token in self.special else token for token in ids] for ids in encoded]
        return encoded

    def encode_with_places(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each text its ids, int32 [tokens], and the characters that each token stands for, int64 [tokens, 2]:
        the first one's place, and the place behind the last one."""
        with library("a text cannot be encoded", "convert it to UTF-8"):
            encoded = self._tokenizer.encode_batch(list(texts))
        return [
            (np.array(encoding.ids, np.int32), np.array(encoding.offsets, np.int64).reshape(-1, 2))
            for encoding in encoded
        ]

    def encode_lines(self, lines: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of the lines of a text, one after the other, and where in the text's UTF-8 each token ends.

        int32 and int64 [tokens]. Unknown tokens end where their text ends; what lies between tokens belongs to none.
        """
        # GPT-2's tokens may hold several line ends, those of the other kinds none.
        if not isinstance(self._tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel):
            lines = joined(lines)
        encoded = self.encode_batch(lines)
        tokens = np.fromiter(itertools.chain(*encoded), np.int32)
        counts = np.array([len(line) for line in encoded], np.int64)
        sizes = np.array([len(line.encode()) for line in lines], np.int64)
        starts = np.cumsum(sizes) - sizes
        upto = np.zeros(len(tokens) + 1, np.int64)
        np.cumsum(np.array(self.token_bytes, np.int64)[tokens], out=upto[1:])
        found = upto[np.cumsum(counts)] - upto[np.cumsum(counts) - counts]
        ends = upto[1:] + np.repeat(starts - upto[np.cumsum(counts) - counts], counts)
        # Where the tokens are not all of a line, the slower encoding says which part of it each one is.
        partly = (found != sizes) | self.parts_words
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
            if token == self.eos:
                break
            if token not in self.special:
                kept.append(token)
        with library("tokens cannot be decoded", "restore tokenizer.json"):
            return self._tokenizer.decode(kept)

    def id_to_token(self, token: int) -> str:
        """The text of one id, for display; BPE shows bytes in GPT-2's printable alphabet (a space is "Ġ")."""
        return self._tokenizer.id_to_token(int(token))  # pyrefly: ignore[bad-return]

    def piece(self, token: int) -> str:
        """The text of one id as it stands among words: without the space that belongs to a byte-level token."""
        if isinstance(self._tokenizer.decoder, decoders.ByteLevel) and token not in self.special:
            return self.decode([token]).strip()
        return self.id_to_token(token)

    def with_rows(self, rows: int) -> "TrainedTokenizer":
        """The vocabulary with as many tokens as a model's table has rows, where T5's has more of them."""
        fewer = is_sentencepiece(self._tokenizer) and not self.pads_with_end and self.vocab_size < rows
        return TrainedTokenizer(filled(self._tokenizer, rows)) if fewer else self

    def save(self, path: str | Path) -> None:
        """Writes the vocabulary as the `tokenizers` library's JSON."""
        write_text(Path(path), self._tokenizer.to_str(pretty=True))

    def publish(
        self,
        folder: Path,
        marks: Literal["both", "end", "none"] = "both",
        *,
        segments: bool = True,
        longest: int | None = None,
    ) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json` as transformers reads them, and a BERT's `vocab.txt`.

        marks: of its start and its end, which are put around a text. segments: whether the model is given them.
        longest: tokens of a text, its marks included.
        """
        write_text(folder / "tokenizer.json", published(self._tokenizer, marks).to_str(pretty=True))
        names = {f"{role}_token": self.id_to_token(token) for role, token in special_ids(self._tokenizer).items()}
        # A SigLIP, whose texts have no mark of their start, reads their padding.
        unmasked = self.pads_with_end and self.bos is None
        inputs = ["input_ids", *["token_type_ids"] * segments, *["attention_mask"] * (not unmasked)]
        kind = "CLIPTokenizer" if roles_of(self._tokenizer) is CLIP_ROLES else "PreTrainedTokenizerFast"
        own = {"tokenizer_class": kind, "model_input_names": inputs, "clean_up_tokenization_spaces": False}
        own |= {"model_max_length": longest} if longest else {}
        write_json(folder / "tokenizer_config.json", own | names)
        if self.parts_words:
            tokens = "".join(f"{self.id_to_token(token)}\n" for token in range(self.vocab_size))
            write_text(folder / "vocab.txt", tokens)

    @classmethod
    def load(cls, path: str | Path) -> "TrainedTokenizer":
        """Reads what `save` wrote, or a BERT tokenizer of another make, whose special tokens have ids of their own.

        Only the rules that this project makes are taken: the library would run any regular expression of a file.
        Raises a UserError that names a file that is missing, damaged or has other rules or special tokens.
        """
        try:
            stored = bare(with_merges(Path(path)))
        except (Unreadable, ValueError) as error:
            raise _unreadable(path, error) from error
        if not ours(stored):
            raise UserError(f"{path} is a tokenizer of another make: use one that this project has saved")
        with library(f"{path} cannot be read as a tokenizer", "restore or delete it"):
            tokenizer = tokenizers.Tokenizer.from_str(json.dumps(stored))
        return cls._checked(tokenizer, path)

    @classmethod
    def _checked(cls, tokenizer: tokenizers.Tokenizer, path: str | Path) -> "TrainedTokenizer":
        try:
            return cls(tokenizer)
        except ValueError as error:
            raise UserError(
                f"{path} is a tokenizer with other special tokens, as {error} is missing: use one that has them all"
            ) from error


def _unreadable(path: str | Path, error: Exception) -> UserError:
    if not isinstance(error, Unreadable):  # a path that no file can have, such as one with a zero byte
        return UserError(f"{str(path)!r} cannot be read as a tokenizer ({error}): check the path")
    return UserError(f"{path} cannot be read as a tokenizer: it {str(error).removeprefix(f'{path} ')}")


Kind = Literal["character", "word", "whitespace", "bpe", "unigram", "wordpiece"]


@dataclass(frozen=True)
class Tokenizer:
    """How to get a vocabulary: of a kind, trained on the task's texts, or from a file.

    kind: "character" (one id per Unicode character, in sorted order), "word" (GPT-2-like splitting, the most frequent
    first), "whitespace" (what stands between single spaces, for text that is already tokenised), "bpe" (byte-level:
    nothing is ever unknown), "unigram" (the most probable pieces, Kudo 2018 section 3.2; characters not seen in
    training become their bytes) or "wordpiece" (BERT's: normalised text, words as the longest known pieces); "word"
    unless given. vocab_size: the number of ids, special tokens included; needed for "bpe", "unigram" and "wordpiece",
    of which little text fills less, an upper limit for "word" and "whitespace", not for "character". specials: whether
    ids 0 to 3 are PAD, BOS, EOS and UNK; only a language model over its own text can do without. "wordpiece" has
    [PAD], [UNK], [CLS], [SEP] and [MASK] as ids 0 to 4.
    sample_megabytes: of text that the vocabulary is made of; of more text, evenly spaced parts.
    path: in place of a kind, a `tokenizer.json` of a run, of a BERT, GPT-2, RoBERTa, T5, CLIP or SigLIP, a `vocab.txt`
    of a BERT (one token a line), or a `vocab.json` of a GPT-2, a RoBERTa or a CLIP with its `merges.txt` beside it.
    lowercase, strip_accents: of "wordpiece" and of a vocab.txt; True and as `lowercase` unless given, or unless a
    `tokenizer_config.json` beside the vocab.txt says otherwise.
    """

    kind: Kind | None = None
    vocab_size: Size | None = None
    specials: bool = True
    path: str | None = None
    lowercase: bool | None = None
    strip_accents: bool | None = None
    sample_megabytes: Size = 100

    def __post_init__(self):
        if self.path is not None:
            self._check_path()
            return
        if self.kind is None:
            object.__setattr__(self, "kind", "word")
        for name in ("lowercase", "strip_accents"):
            if self.kind != "wordpiece" and getattr(self, name) is not None:
                raise UserError(f"tokenizer.{name} has no meaning for kind {self.kind}: leave it out, or use wordpiece")
        if self.kind == "wordpiece" and not self.specials:
            raise UserError("a wordpiece tokenizer needs special tokens: set tokenizer.specials to True")
        if self.kind == "character" and self.vocab_size is not None:
            raise UserError("a character tokenizer keeps every character: set vocab_size to None")
        smallest = {"bpe": 256, "unigram": 257, "wordpiece": 2}.get(self.kind or "word", 1) + len(self._special_tokens)
        if self.kind in ("bpe", "unigram", "wordpiece") and self.vocab_size is None:
            raise UserError(f"a {self.kind} tokenizer needs a vocab_size of at least {smallest}, for example 8000")
        if self.vocab_size is not None and self.vocab_size < smallest:
            raise UserError(f"vocab_size {self.vocab_size} is too small for kind {self.kind}: use at least {smallest}")

    def _check_path(self) -> None:
        if self.kind is not None:
            raise UserError("a tokenizer has either a kind or a path: leave one of them out")
        if self.vocab_size is not None or not self.specials:
            raise UserError("tokenizer.path names a vocabulary that exists: leave vocab_size and specials out")

    @property
    def _special_tokens(self) -> list[str]:
        if self.kind == "wordpiece":
            return list(BERT_TOKENS)
        return list(SPECIAL_TOKENS) if self.specials else []

    def train(self, texts: Iterable[str]) -> TrainedTokenizer:
        """Builds the vocabulary of `texts`; the same texts in the same order give the same ids. Needs a `kind`."""
        special, size = self._special_tokens, self.vocab_size or 0
        makers = {
            "character": lambda: train_characters(texts, special),
            "word": lambda: train_words("word", texts, size, special),
            "whitespace": lambda: train_words("whitespace", texts, size, special),
            "bpe": lambda: train_bpe(texts, size, special),
            "unigram": lambda: train_unigram(texts, size, special),
            "wordpiece": lambda: train_pieces(texts, size, *self._normaliser),
        }
        with library("no vocabulary can be made of these texts", "check them, or use another task.tokenizer"):
            return TrainedTokenizer(makers[self.kind or "word"]())

    def read(self, folder: Path | None = None) -> TrainedTokenizer:
        """The vocabulary of the file `path`; "~/" is the home folder, and its content says which format it has.

        "hf:OWNER/NAME" is that of a model on the hub (`research.hub`), as the run in `folder` notes it. Raises a
        UserError as `TrainedTokenizer.load`.
        """
        given = self.path or ""
        path = Path(os.path.expanduser(given) if given.startswith("~/") else given)
        if given.startswith(PREFIX):
            model = fetched(given, folder)
            path = next((model / name for name in VOCABULARIES if (model / name).exists()), model / VOCABULARIES[0])
        try:
            text = read_text(path)
        except (Unreadable, ValueError) as error:
            raise _unreadable(path, error) from error
        if not text.lstrip().startswith("{"):
            with library(f"{path} cannot be read as a tokenizer", "give a vocab.txt or a tokenizer.json"):
                own = self.lowercase is not None or self.strip_accents is not None
                tokenizer = pieces_of_lines(text, str(path), *(self._normaliser if own else described_beside(path)))
            return TrainedTokenizer._checked(tokenizer, path)
        if self.lowercase is not None or self.strip_accents is not None:
            raise UserError(f"{path} says itself how it normalises text: leave lowercase and strip_accents out")
        return TrainedTokenizer.load(path)

    @property
    def _normaliser(self) -> tuple[bool, bool | None]:
        return self.lowercase is not False, self.strip_accents
