"""How each kind of tokenizer cuts and joins text, and whether a stored one keeps to that: a file's own rules never run.

The `tokenizers` library would run any regular expression, normaliser and decoder that a file names.
"""

import contextlib
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from research.data import sentencepiece
from research.errors import UserError
from research.files import fits, read_json, read_text

PAD, BOS, EOS, UNK = 0, 1, 2, 3
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

ROLES = {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>"}
"""The special token of each role, in every kind but "wordpiece"."""
BERT_ROLES = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
BERT_ROLES |= {"bos": "[CLS]", "eos": "[SEP]"}
"""Those of BERT (Devlin et al. 2019): a text starts with [CLS] and ends with [SEP]."""

ROBERTA_ROLES = ROLES | {"cls": "<s>", "sep": "</s>", "mask": "<mask>"}
"""Those of RoBERTa (Liu et al. 2019), whose tokens are otherwise GPT-2's."""

END_OF_TEXT = "<|endoftext|>"
GPT2_ROLES = {"eos": END_OF_TEXT}
"""GPT-2's only special token stands between texts."""
CLIP_ROLES = {"bos": "<|startoftext|>", "eos": END_OF_TEXT, "pad": END_OF_TEXT}
"""Those of CLIP (Radford et al. 2021), where what ends a text also pads it."""
WORD_END = "</w>"
"""What a token that ends a word ends with, in CLIP's vocabulary."""
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

VOCABULARY, MERGES = "vocab.json", "merges.txt"
"""Files of GPT-2, RoBERTa and CLIP, which together say what a tokenizer.json does."""

CHARACTERS = Regex(r"[\s\S]")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]  # as the library calls those that a unigram model falls back to
# As GPT-2, a word or a punctuation mark carries the one space before it; unlike GPT-2, digits and punctuation marks
# come one by one. No token spans a line break, so a text may be encoded line by line.
WORDS = Regex(r"[^\S\r\n]?[\p{L}\p{M}]+|\p{N}|[^\S\r\n]?[^\s\p{L}\p{M}\p{N}]|\s")


def pipeline(
    kind: str, model: models.Model, lowercase: bool = True, strip_accents: bool | None = None
) -> tokenizers.Tokenizer:
    """A tokenizer that cuts text as its kind does (see `Tokenizer`) and decodes by joining.

    lowercase, strip_accents: of the normaliser of "wordpiece", the only kind that has one.
    """
    tokenizer = tokenizers.Tokenizer(model)
    if kind == "wordpiece":
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece(cleanup=False)
        return tokenizer
    if kind == "gpt2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer
    if kind == "clip":
        parts = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        tokenizer.normalizer = normalizers.Sequence(parts)
        words = pre_tokenizers.Split(Regex(CLIP_WORDS), "removed", invert=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        spaces = [decoders.Replace(WORD_END, " "), decoders.Strip(" ", 0, 1)]
        tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), *spaces])
        return tokenizer
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
    kinds = {
        "character": [words],
        "word": [words],
        "whitespace": [words],
        "bpe": [models.BPE()],
        "gpt2": [models.BPE()],
        "clip": [_clip_model()],
        "unigram": unigrams,
    }
    made = [pipeline(kind, model) for kind, variants in kinds.items() for model in variants]
    pieces = models.WordPiece({}, unk_token=BERT_ROLES["unk"])
    made += [pipeline("wordpiece", pieces, lower, strip) for lower in (True, False) for strip in (None, True, False)]
    return [_frame(json.loads(tokenizer.to_str())) for tokenizer in made]


def _clip_model() -> models.BPE:
    return models.BPE(unk_token=END_OF_TEXT, continuing_subword_prefix="", end_of_word_suffix=WORD_END)


def _frame(stored: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer's JSON without what training fills in."""
    return stored | {
        "model": {name: value for name, value in stored["model"].items() if name not in ("vocab", "merges")}
    }


def bare(stored: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a BERT, GPT-2 or T5 tokenizer of another make as this project would write it, and of one of its own
    that was published (`published`) as it was; any other as it is.

    Such a file also says how special tokens are put around a text, how texts are padded, and which parts of a text are
    special tokens. All of that is left out: here it is the task's business, and no text holds a special token. Of added
    tokens beyond BERT's own nothing is left out, so that `ours` refuses them.
    """
    stored = _unmarked(stored)
    model, added = stored.get("model"), stored.get("added_tokens")
    if isinstance(model, dict) and model.get("type", "BPE" if "merges" in model else None) == "BPE":
        bare_bpe = _bare_clip if model.get("end_of_word_suffix") == WORD_END else _bare_gpt2
        return bare_bpe(stored, model)  # the first files did not name the type
    if (pieces := sentencepiece.bare(stored)) is not None:
        return pieces
    if not isinstance(model, dict) or model.get("type") != "WordPiece" or not fits(added, list[dict]):
        return stored
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict):
        return stored
    if any(token.get("content") not in BERT_TOKENS or token.get("id") != vocabulary.get(token["content"])
           for token in added):  # fmt: skip
        return stored
    decoder = {"type": "WordPiece", "prefix": "##", "cleanup": False}
    left_out = {"post_processor": None, "truncation": None, "padding": None, "added_tokens": []}
    return stored | left_out | {"decoder": decoder}


def _unmarked(stored: dict[str, Any]) -> dict[str, Any]:
    """Without the marks and the special tokens that `published` adds, where no other tokens are added."""
    added = stored.get("added_tokens")
    own = [(token, number) for number, token in enumerate(SPECIAL_TOKENS)]
    if not fits(added, list[dict]) or [(token.get("content"), token.get("id")) for token in added] != own:
        return stored
    return stored | {"post_processor": None, "added_tokens": []}


def _bare_gpt2(stored: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """GPT-2's pipeline (Radford et al. 2019, section 2.2), which is RoBERTa's too, with a file's vocabulary and merges,
    where it is that one."""
    pre, vocabulary = stored.get("pre_tokenizer"), model.get("vocab")
    added = stored.get("added_tokens", [])
    if not isinstance(pre, dict) or pre.get("type") != "ByteLevel" or not isinstance(vocabulary, dict):
        return stored
    plain = not any(model.get(name) for name in ("dropout", "unk_token", "continuing_subword_prefix", "ignore_merges"))
    known = fits(added, list[dict]) and all(
        token.get("content") in (END_OF_TEXT, *ROBERTA_ROLES.values())
        and token.get("id") == vocabulary.get(token["content"])
        for token in added
    )
    same = (
        pre.get("add_prefix_space") is False and pre.get("use_regex", True) is True and stored.get("normalizer") is None
    )
    if not (plain and known and same):
        return stored
    frame = json.loads(pipeline("gpt2", models.BPE()).to_str())
    return frame | {"model": frame["model"] | {"vocab": vocabulary, "merges": model.get("merges")}}


def _bare_clip(stored: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """CLIP's pipeline with a file's vocabulary and merges, where it is that one."""
    vocabulary, added = model.get("vocab"), stored.get("added_tokens", [])
    frame = json.loads(pipeline("clip", _clip_model()).to_str())
    split, to_bytes = frame["pre_tokenizer"]["pretokenizers"]
    pre = stored.get("pre_tokenizer")
    parts = pre.get("pretokenizers") if isinstance(pre, dict) else None
    if not isinstance(vocabulary, dict) or not fits(added, list[dict]) or not fits(parts, list[dict]):
        return stored
    specials = "".join(f"{re.escape(token)}|" for token in dict.fromkeys(CLIP_ROLES.values()))
    with_specials = split | {"pattern": {"Regex": specials + CLIP_WORDS}}  # of which no text here has any
    known = all(
        token.get("content") in CLIP_ROLES.values() and token.get("id") == vocabulary.get(token["content"])
        for token in added
    )
    same = (
        stored.get("normalizer") == frame["normalizer"]
        and parts[0] in (split, with_specials)
        and [{**to_bytes, **part, "trim_offsets": to_bytes["trim_offsets"]} for part in parts[1:]] == [to_bytes]
    )
    if not (known and same) or any(
        model.get(name) for name in ("dropout", "continuing_subword_prefix", "ignore_merges")
    ):
        return stored
    return frame | {"model": frame["model"] | {"vocab": vocabulary, "merges": model.get("merges")}}


def of_two_files(vocabulary: dict[str, int], merges: list[list[str]]) -> dict[str, Any]:
    """The JSON of what a `vocab.json` and a `merges.txt` say of a GPT-2, a RoBERTa or a CLIP."""
    if CLIP_ROLES["bos"] in vocabulary:
        frame = json.loads(pipeline("clip", _clip_model()).to_str())
        return frame | {"model": frame["model"] | {"vocab": vocabulary, "merges": merges}}
    pre = {"type": "ByteLevel", "add_prefix_space": False}
    return {"model": {"type": "BPE", "vocab": vocabulary, "merges": merges}, "pre_tokenizer": pre}


def with_merges(path: Path) -> dict[str, Any]:
    """The JSON of a tokenizer; of a vocab.json of GPT-2, RoBERTa or CLIP with the merges.txt that stands beside it."""
    stored = read_json(path)
    if path.name != VOCABULARY or not fits(stored, dict[str, int]):
        return stored
    lines = read_text(path.with_name(MERGES)).splitlines()
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    return of_two_files(stored, merges)


def ours(stored: dict[str, Any]) -> bool:
    """Whether the JSON of a tokenizer is one that `Tokenizer.train` makes: its rules, and ids without gaps."""
    model = stored.get("model")
    if sentencepiece.ours(stored):
        return True
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
    alphabet = {*pre_tokenizers.ByteLevel.alphabet()} if model["type"] == "BPE" else set()
    if model.get("end_of_word_suffix"):
        alphabet |= {letter + WORD_END for letter in alphabet}
    return sorted(vocabulary.values()) == list(range(len(vocabulary))) and vocabulary.keys() >= alphabet


def roles_of(tokenizer: tokenizers.Tokenizer) -> dict[str, str]:
    """The special token of each role in a vocabulary of this kind."""
    if isinstance(tokenizer.model, models.WordPiece):
        return BERT_ROLES
    if sentencepiece.is_sentencepiece(tokenizer):
        return sentencepiece.roles_of(tokenizer)
    if isinstance(tokenizer.model, models.BPE):
        if tokenizer.model.end_of_word_suffix:
            return CLIP_ROLES
        for roles, own in ((ROBERTA_ROLES, ROBERTA_ROLES["mask"]), (GPT2_ROLES, END_OF_TEXT)):
            if tokenizer.token_to_id(own) is not None:
                return roles
    return ROLES


def special_ids(tokenizer: tokenizers.Tokenizer) -> dict[str, int]:
    """The id of each role that a special token of the vocabulary has, such as "pad"; {} where it was made without.

    Raises ValueError, which names the first token that is missing, where there are some of them only.
    """
    pieces, roles = isinstance(tokenizer.model, models.WordPiece), roles_of(tokenizer)
    ids = {role: found for role, token in roles.items() if (found := tokenizer.token_to_id(token)) is not None}
    missing = [token for role, token in roles.items() if role not in ids]
    if missing and (pieces or ids):
        raise ValueError(missing[0])
    return ids


def without_added_tokens(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer without the texts that trainers tell it to look for: special tokens, which a file could inject."""
    return tokenizers.Tokenizer.from_str(json.dumps(json.loads(tokenizer.to_str()) | {"added_tokens": []}))


def published(tokenizer: tokenizers.Tokenizer, marks: str = "both") -> tokenizers.Tokenizer:
    """A copy that other programs use: its special tokens are found in texts, and put around a text and between two.

    marks: "end" puts one behind each text alone, and "none" puts none.
    """
    if sentencepiece.is_sentencepiece(tokenizer):
        return sentencepiece.published(tokenizer)
    copy = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    ids, roles = special_ids(tokenizer), roles_of(tokenizer)
    if "bos" not in ids:
        copy.add_special_tokens(sorted(roles[role] for role in ids))
        return copy
    start, end = roles["bos"], roles["eos"]
    twice = roles in (ROBERTA_ROLES, CLIP_ROLES)  # two marks, and no segments
    second = f"{end} $B {end}" if twice else f"$B:1 {end}:1"
    first = f"{start} $A {end}" if marks == "both" else f"$A {end}"
    if marks != "none":
        copy.post_processor = processors.TemplateProcessing(
            single=first, pair=f"{first} {second}", special_tokens=[(start, ids["bos"]), (end, ids["eos"])]
        )
    mask = ROBERTA_ROLES["mask"]  # the space before it is part of it
    copy.add_special_tokens(
        [
            tokenizers.AddedToken(mask, lstrip=True) if token == mask else token
            for token in dict.fromkeys(roles.values())
        ]
    )
    return copy


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
