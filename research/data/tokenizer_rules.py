"""How each kind of tokenizer cuts and joins text, and whether a stored one keeps to that: a file's own rules never run.

The `tokenizers` library would run any regular expression, normaliser and decoder that a file names.
"""

import contextlib
import functools
import json
from collections.abc import Iterator
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers

from research.errors import UserError
from research.files import fits

PAD, BOS, EOS, UNK = 0, 1, 2, 3
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")

CHARACTERS = Regex(r"[\s\S]")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]  # as the library calls those that a unigram model falls back to
# As GPT-2, a word or a punctuation mark carries the one space before it; unlike GPT-2, digits and punctuation marks
# come one by one. No token spans a line break, so a text may be encoded line by line.
WORDS = Regex(r"[^\S\r\n]?[\p{L}\p{M}]+|\p{N}|[^\S\r\n]?[^\s\p{L}\p{M}\p{N}]|\s")


def pipeline(kind: str, model: models.Model) -> tokenizers.Tokenizer:
    """A tokenizer that cuts text as its kind does (see `Tokenizer`) and decodes by joining."""
    tokenizer = tokenizers.Tokenizer(model)
    if kind == "whitespace":
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return tokenizer  # without a decoder it joins with spaces
    tokenizer.pre_tokenizer = pre_tokenizers.Split(CHARACTERS if kind == "character" else WORDS, behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    if kind == "unigram":
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    if kind == "bpe":
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([tokenizer.pre_tokenizer, to_bytes])
        tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@functools.cache
def _frames() -> list[dict[str, Any]]:
    """The frames of all tokenizers that `Tokenizer.train` makes."""
    words = models.WordLevel(unk_token=SPECIAL_TOKENS[UNK])
    pieces = [(token, 0.0) for token in SPECIAL_TOKENS]
    unigrams = [models.Unigram(pieces, unknown, byte_fallback=True) for unknown in (UNK, 0)]
    kinds = {"character": [words], "word": [words], "whitespace": [words], "bpe": [models.BPE()], "unigram": unigrams}
    made = [pipeline(kind, model) for kind, variants in kinds.items() for model in variants]
    return [_frame(json.loads(tokenizer.to_str())) for tokenizer in made]


def _frame(stored: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer's JSON without what training fills in."""
    return stored | {
        "model": {name: value for name, value in stored["model"].items() if name not in ("vocab", "merges")}
    }


def ours(stored: dict[str, Any]) -> bool:
    """Whether the JSON of a tokenizer is one that `Tokenizer.train` makes: its rules, and ids without gaps."""
    model = stored.get("model")
    if not isinstance(model, dict) or _frame(stored) not in _frames():
        return False
    vocabulary = model.get("vocab")
    if model["type"] == "Unigram":
        reserved = list(SPECIAL_TOKENS) * bool(model["unk_id"]) + BYTES
        if not fits(vocabulary, list[list]) or not all(map(_scored, vocabulary)):
            return False
        tokens = [token for token, _ in vocabulary]
        return all(tokens) and len(set(tokens)) == len(tokens) and tokens[: len(reserved)] == reserved
    if not fits(vocabulary, dict[str, int]) or "" in vocabulary:
        return False
    alphabet = pre_tokenizers.ByteLevel.alphabet() if model["type"] == "BPE" else ()
    return sorted(vocabulary.values()) == list(range(len(vocabulary))) and vocabulary.keys() >= set(alphabet)


def _scored(entry: list) -> bool:
    return len(entry) == 2 and isinstance(entry[0], str) and fits(entry[1], float)


@contextlib.contextmanager
def library(what: str, remedy: str) -> Iterator[None]:
    """Makes a UserError of whatever the library raises: plain exceptions, and panics, which are not even these."""
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{what} ({reason}): {remedy}") from error
