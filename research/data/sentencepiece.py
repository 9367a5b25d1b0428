"""Tokenizers of SentencePiece in the `tokenizers` library's JSON, as those of T5 and SigLIP are published.

Of a file's own rules none is run beyond its table of characters that stand for others.

Texts are cut at white space, each word begins with "\u2581" for the space before it, and is the most probable pieces
(Kudo 2018, section 3.2). T5's table may have more rows than there are tokens: pieces that no text holds fill up.
SigLIP's texts are in small letters and without punctuation (Zhai et al. 2023).
"""

import json
import re
import string
from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from research.files import fits

ROLES = {"pad": "<pad>", "eos": "</s>", "unk": "<unk>", "bos": "<pad>"}
"""Special tokens; what is written starts with that of padding (Raffel et al. 2020; Marian)."""
SIGLIP_ROLES = {"pad": "</s>", "eos": "</s>", "unk": "<unk>"}
"""Those of SigLIP: no token starts a text, and what ends it also pads it."""
SPACE = "\u2581"
PUNCTUATION = f"[{re.escape(string.punctuation)}]"
LARGEST_TABLE = 2**22
"""Characters of a table of characters, which is base64; T5's has 300 thousand."""


def _frame() -> dict[str, Any]:
    """The JSON of such a tokenizer, without its vocabulary and its table of characters."""
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    space = {"replacement": SPACE, "prepend_scheme": "always"}
    parts = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**space)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    tokenizer.decoder = decoders.Metaspace(**space)
    return json.loads(tokenizer.to_str())


def bare(stored: Mapping[str, Any]) -> dict[str, Any] | None:
    """The JSON of a tokenizer of this kind as this project would write it; None for one of another kind.

    What stands around a text and which parts of it are special tokens is left out: that is the task's business.
    """
    model, pre = stored.get("model"), stored.get("pre_tokenizer")
    if not isinstance(model, dict) or model.get("type", "Unigram") != "Unigram" or model.get("byte_fallback"):
        return None
    lowered = _lowered_of(stored.get("normalizer"))
    parts = pre.get("pretokenizers") if isinstance(pre, dict) and pre.get("type") == "Sequence" else [pre]
    known = [["WhitespaceSplit", "Metaspace"], *[["Metaspace"]] * (lowered is not None)]
    if not fits(parts, list[dict]) or [part.get("type") for part in parts] not in known:
        return None
    if not all(map(_plain_space, (parts[-1], stored.get("decoder")))):
        return None
    kept = {"vocab": model.get("vocab"), "unk_id": model.get("unk_id"), "type": "Unigram", "byte_fallback": False}
    return _frame() | {"model": kept, "normalizer": lowered or _table_of(stored.get("normalizer"))}


def _lowered(*tables: Any) -> dict[str, Any]:
    """SigLIP's normaliser, with a table of characters or without."""
    without = {"type": "Replace", "pattern": {"Regex": PUNCTUATION}, "content": ""}
    return {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, without, *tables]}


def _lowered_of(normalizer: Any) -> dict[str, Any] | None:
    """SigLIP's normaliser as this project writes it; None for another one.

    What it does to white space is left out: words are cut there.
    """
    parts = normalizer.get("normalizers") if isinstance(normalizer, dict) else None
    if not fits(parts, list[dict]):
        return None
    spaces: list[Any] = [{"type": "Replace", "pattern": {"Regex": one}, "content": " "} for one in (r"\s+", " {2,}")]
    spaces.append({"type": "Strip", "strip_left": True, "strip_right": True})
    lower, without, *tables = [*(part for part in parts if part not in spaces), {}, {}]
    pattern = without.get("pattern")
    characters = pattern.get("Regex") if isinstance(pattern, dict) else None
    if lower != {"type": "Lowercase"} or not isinstance(characters, str) or without.get("content") != "":
        return None
    plain = re.sub(r"\\(.)", r"\1", characters)  # of a class of characters, however they are escaped
    if not plain.startswith("[") or characters[1:2] == "^" or {*plain[1:-1]} != {*string.punctuation}:
        return None
    return _lowered(*filter(None, tables))


def _plain_space(part: Any) -> bool:
    """Whether a Metaspace puts the usual mark before each word."""
    if not isinstance(part, dict) or part.get("type") != "Metaspace" or part.get("replacement") != SPACE:
        return False
    always = part.get("prepend_scheme", "always") == "always" and part.get("add_prefix_space", True) is True
    return always and part.get("split", True) is True


def _table_of(normalizer: Any) -> Any:
    """The normaliser without a sequence of one around it, None for a table of nothing."""
    if isinstance(normalizer, dict) and normalizer.get("type") == "Sequence":
        inner = normalizer.get("normalizers")
        normalizer = inner[0] if isinstance(inner, list) and len(inner) == 1 else normalizer
    empty = isinstance(normalizer, dict) and normalizer == {"type": "Precompiled", "precompiled_charsmap": None}
    return None if empty else normalizer


def ours(stored: Mapping[str, Any]) -> bool:
    """Whether the JSON is one that `bare` gives, with a vocabulary in which every role has its token."""
    model, normalizer = stored.get("model"), stored.get("normalizer")
    if not isinstance(model, dict) or {**stored, "model": 0, "normalizer": 0} != {
        **_frame(),
        "model": 0,
        "normalizer": 0,
    }:
        return False
    lowered = _lowered_of(normalizer)
    table = normalizer if lowered is None else next(iter(lowered["normalizers"][2:]), None)
    if lowered not in (None, normalizer) or not (table is None or _plain_table(table)):
        return False
    roles = ROLES if lowered is None else SIGLIP_ROLES
    vocabulary, unknown = model.get("vocab"), model.get("unk_id")
    if not fits(vocabulary, list[list]) or not all(map(_scored, vocabulary)) or not isinstance(unknown, int):
        return False
    tokens = [token for token, _ in vocabulary]
    if not 0 <= unknown < len(tokens) or tokens[unknown] != roles["unk"]:
        return False
    return all(tokens) and len({*tokens}) == len(tokens) and {*roles.values()} <= {*tokens}


def _plain_table(table: Any) -> bool:
    """Whether it is a table of characters of a size that one has."""
    return (
        fits(table, dict[str, str])
        and table.keys() == {"type", "precompiled_charsmap"}
        and table["type"] == "Precompiled"
        and len(table["precompiled_charsmap"]) <= LARGEST_TABLE
    )


def _scored(entry: list) -> bool:
    return len(entry) == 2 and isinstance(entry[0], str) and fits(entry[1], float)


def is_sentencepiece(tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether a tokenizer is of this kind."""
    return isinstance(tokenizer.model, models.Unigram) and isinstance(tokenizer.decoder, decoders.Metaspace)


def roles_of(tokenizer: tokenizers.Tokenizer) -> dict[str, str]:
    """The special token of each role in a tokenizer of this kind."""
    return SIGLIP_ROLES if isinstance(tokenizer.normalizer, normalizers.Sequence) else ROLES


def filled(tokenizer: tokenizers.Tokenizer, rows: int) -> tokenizers.Tokenizer:
    """The tokenizer with as many tokens as a table has rows; none of those that are new stands in a text.

    They hold a space, at which every text is cut, and the lowest score there is, on which that of the unknown depends.
    """
    stored = json.loads(tokenizer.to_str())
    vocabulary = stored["model"]["vocab"]
    lowest = min(score for _, score in vocabulary)
    vocabulary += [[f"{FILLING} {number}>", lowest] for number in range(len(vocabulary), rows)]
    return tokenizers.Tokenizer.from_str(json.dumps(stored))


FILLING = "<unused"


def published(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A copy that other programs use: without what fills up, with the mark behind each text and its special tokens."""
    stored = json.loads(tokenizer.to_str())
    vocabulary = stored["model"]["vocab"]
    while vocabulary[-1][0].startswith(f"{FILLING} "):
        vocabulary.pop()
    copy = tokenizers.Tokenizer.from_str(json.dumps(stored))
    roles = roles_of(tokenizer)
    end = roles["eos"]
    copy.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, copy.token_to_id(end))]
    )
    copy.add_special_tokens(list(dict.fromkeys(roles.values())))
    return copy
