"""WordPiece as BERT's: against a tokenizer written from its definition, with BERT's ids, safely read from files."""

import json
import random
import unicodedata
from pathlib import Path

import pytest

from research.data.tokenizer import Tokenizer, TrainedTokenizer
from research.errors import UserError

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [
    "un", "##aff", "##able", "a", "##a", "b", "##b", "ab", "##ab", "aab", "e", "##e", "cafe", "é", "##é", "caf",
    "##\u0131", "i", "新", "字", "##字", "の", "##の", "!", "[", "]", "¿", "$", "cls", "CLS", "A", "##A", "Ab", "ü",
    "u", "##u", "1", "##2", "12", "\u1112", "##\u1161", "##\u11ab", "ß", "##ß", "naive", "i\u0307", "x", "##x",
    "\u0301", "##\u0301",
]  # fmt: skip
BERT_LINES = ["[PAD]", *(f"[unused{number}]" for number in range(99)), *SPECIALS[1:], *PIECES]
"""The ids of the published BERTs' special tokens: 0 and 100 to 103."""


def write_vocabulary(folder: Path, lines: list[str] = BERT_LINES) -> str:
    path = folder / "vocab.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def reference(text: str, ids: dict[str, int], lowercase: bool, strip_accents: bool | None) -> list[int]:
    """BERT's basic tokenisation, then the longest known pieces, greedily from the left."""
    chinese = [(0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F)]
    chinese += [(0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)]
    cleaned = ""
    for character in text:
        category = unicodedata.category(character)
        if character in "\t\n\r" or category == "Zs":
            cleaned += " "
        elif character != "\ufffd" and not category.startswith("C"):
            apart = any(first <= ord(character) <= last for first, last in chinese)
            cleaned += f" {character} " if apart else character
    words = []
    for word in cleaned.split():
        word = word.lower() if lowercase else word
        if lowercase if strip_accents is None else strip_accents:
            word = "".join(c for c in unicodedata.normalize("NFD", word) if unicodedata.category(c) != "Mn")
        start = True
        for character in word:
            ascii_mark = "!" <= character <= "~" and not character.isalnum()
            if ascii_mark or unicodedata.category(character).startswith("P"):
                words.append(character)
                start = True
            elif start:
                words.append(character)
                start = False
            else:
                words[-1] += character
    found = []
    for word in words:
        pieces, begin = [], 0
        while begin < len(word) <= 100:
            names = (("##" if begin else "") + word[begin:end] for end in range(len(word), begin, -1))
            piece = next((name for name in names if name in ids), None)
            if piece is None:
                break
            pieces.append(ids[piece])
            begin += len(piece) - 2 * bool(begin)
        found += pieces if pieces and begin == len(word) else [ids["[UNK]"]]
    return found


def texts(count: int) -> list[str]:
    """Random ones of what is hard: accents, Chinese, marks, control characters, long words, special tokens' names."""
    parts = [*"aabbeéüß\u0131İ12xX!¿$^新字の한", "e\u0301", "[CLS]", "[UNK]", "unaffable", "Café", "NAÏVE", "AAB", "  "]
    parts += [*" \t\n\u00a0\u2028\u3000\u3002\0\ufffd\x07\x85\u200b\u00ad\ue000\u0301\U0001f600\U00020000", "\r\n"]
    parts += ["a" * 100, "ab" * 50 + "a"]
    draw = random.Random(0)
    return ["".join(draw.choices(parts, k=draw.randrange(12))) for _ in range(count)]


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("strip_accents", [None, True, False])
def test_encoding_equals_the_definition(lowercase: bool, strip_accents: bool | None, tmp_path: Path):
    path = write_vocabulary(tmp_path)
    read = Tokenizer(path=path, lowercase=lowercase, strip_accents=strip_accents).read()
    ids, cases = {token: number for number, token in enumerate(BERT_LINES)}, texts(400)
    expected = [reference(text, ids, lowercase, strip_accents) for text in cases]
    for text, found, wanted in zip(cases, read.encode_batch(cases), expected, strict=True):
        assert found == wanted, (text, found, wanted)
    used = {token for tokens in expected for token in tokens}
    assert len(used) > 25 and not used & {0, 101, 102, 103}  # no text is taken for a special token


def test_a_vocabulary_of_bert_has_its_ids(tmp_path: Path):
    read = Tokenizer(path=write_vocabulary(tmp_path)).read()
    read.save(tmp_path / "tokenizer.json")
    for tokenizer in (read, TrainedTokenizer.load(tmp_path / "tokenizer.json")):
        assert (tokenizer.pad, tokenizer.unk, tokenizer.cls, tokenizer.sep, tokenizer.mask) == (0, 100, 101, 102, 103)
        assert (tokenizer.bos, tokenizer.eos, tokenizer.end_token) == (101, 102, 102) and tokenizer.specials
        assert [tokenizer.id_to_token(number) for number in range(tokenizer.vocab_size)] == BERT_LINES
        assert tokenizer.decode([101, *tokenizer.encode("Unaffable zz cafe!"), 102, 105]) == "unaffable cafe !"


def test_tokens_count_the_bytes_of_the_text_they_come_from(tmp_path: Path):
    read = Tokenizer(path=write_vocabulary(tmp_path)).read()
    tokens, ends = read.encode_lines(["Café UNAFFABLE\n", " 新 zzz é"])
    assert [read.id_to_token(token) for token in tokens] == ["cafe", "un", "##aff", "##able", "新", "[UNK]", "e"]
    assert ends.tolist() == [5, 8, 11, 15, 20, 24, 27]
    assert [read.token_bytes[token] for token in tokens] == [4, 2, 3, 4, 3, 0, 1]
    # Lower case is a byte longer here, which makes up for the space that belongs to no token.
    accents = Tokenizer(path=write_vocabulary(tmp_path), strip_accents=False).read()
    tokens, ends = accents.encode_lines(["\u0130 x"])
    assert [accents.id_to_token(token) for token in tokens] == ["i\u0307", "x"] and ends.tolist() == [2, 4]


TRAINING = ["the theatre there then, Thé [CLS] 新字 # ##"] * 3 + [chr(0x4E00 + place) + "xyz" for place in range(60)]


def test_training_makes_the_same_pieces_every_time():
    """The library numbers letters by a hash table with a random seed."""
    first, *others = [Tokenizer("wordpiece", 150).train(TRAINING) for _ in range(4)]
    assert all(other.ids == first.ids for other in others)
    assert [first.id_to_token(token) for token in range(5)] == SPECIALS
    assert (first.pad, first.unk, first.cls, first.sep, first.mask) == (0, 1, 2, 3, 4)
    assert {"the", "theatre", "新", "#", "["} <= set(first.ids)
    for text in TRAINING:
        tokens = first.encode(text)
        assert tokens == reference(text, first.ids, True, None) and min(tokens) > 4


def test_settings_of_training():
    cased = Tokenizer("wordpiece", 150, lowercase=False).train(TRAINING)
    assert cased.encode("Thé") == reference("Thé", cased.ids, False, None) and 1 not in cased.encode("Thé")
    accents = Tokenizer("wordpiece", 150, strip_accents=False).train(TRAINING)
    assert "thé" in accents.ids and "Thé" not in accents.ids
    small = Tokenizer("wordpiece", 20).train(TRAINING)
    assert small.vocab_size == 20 and "the" not in small.ids
    assert 1 in small.encode("新字") and 1 not in small.encode("the")  # rare letters had no room


def foreign_file(**changed) -> dict:
    """A tokenizer.json as the published BERTs have it, in which the library is told more than is needed here."""
    added = [
        {"id": number, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True} for number, token in enumerate(BERT_LINES) if token in SPECIALS
    ]  # fmt: skip
    normalizer = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    whole = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    tokens = {"[CLS]": {"id": "[CLS]", "ids": [101], "tokens": ["[CLS]"]}}
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    model |= {"max_input_chars_per_word": 100, "vocab": {token: number for number, token in enumerate(BERT_LINES)}}
    return {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 2**40}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", **normalizer},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": whole, "pair": whole, "special_tokens": tokens},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": model,
    } | changed  # fmt: skip


def test_a_published_file_is_read_and_only_its_vocabulary_and_normaliser_count(tmp_path: Path):
    path = tmp_path / "foreign.json"
    path.write_text(json.dumps(foreign_file()))
    read, lines = Tokenizer(path=str(path)).read(), Tokenizer(path=write_vocabulary(tmp_path)).read()
    assert read.ids == lines.ids and (read.pad, read.cls) == (0, 101)
    assert read.encode_batch(texts(50)) == lines.encode_batch(texts(50))
    read.save(tmp_path / "tokenizer.json")
    stored = json.loads((tmp_path / "tokenizer.json").read_text())
    assert not any(stored[name] for name in ("truncation", "padding", "added_tokens", "post_processor"))


MODEL = foreign_file()["model"]
CATASTROPHE = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
HOSTILE = {
    "slow expression": {"pre_tokenizer": CATASTROPHE},
    "sequence": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [CATASTROPHE]}},
    "normaliser": {"normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}},
    "more rules": {"normalizer": foreign_file()["normalizer"] | {"pattern": {"Regex": "(a+)+$"}}},
    "switch as text": {"normalizer": foreign_file()["normalizer"] | {"lowercase": "yes"}},
    "added token": {"added_tokens": [{"id": 7, "content": "a"}]},
    "added at another id": {"added_tokens": [{"id": 7, "content": "[CLS]"}]},
    "added of no content": {"added_tokens": [{"id": 7, "content": ["[CLS]"]}]},
    "added nothing": {"added_tokens": [{}]},
    "added numbers": {"added_tokens": [1]},
    "added text": {"added_tokens": "[CLS]"},
    "endless words": {"model": MODEL | {"max_input_chars_per_word": 10**9}},
    "no prefix": {"model": MODEL | {"continuing_subword_prefix": ""}},
    "other unknown": {"model": MODEL | {"unk_token": "zz"}},
    "gaps": {"model": MODEL | {"vocab": MODEL["vocab"] | {"zz": 2**31}}},
    "empty token": {"model": MODEL | {"vocab": MODEL["vocab"] | {"": len(BERT_LINES)}}},
    "list": {"model": MODEL | {"vocab": BERT_LINES}},
    "no special tokens": {"model": MODEL | {"vocab": {"a": 0}}, "added_tokens": []},
    "lone surrogate": {"model": MODEL | {"vocab": MODEL["vocab"] | {"\ud800": len(BERT_LINES)}}},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_rules_of_a_file_are_not_run(case: str, tmp_path: Path):
    (tmp_path / "foreign.json").write_text(json.dumps(foreign_file(**HOSTILE[case])))
    with pytest.raises(UserError, match=r"(of another make|as a tokenizer|other special tokens).*: ") as error:
        Tokenizer(path=str(tmp_path / "foreign.json")).read()
    assert "foreign.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([*SPECIALS, "a", "", "b"], "its line 7 is empty: give one token a line"),
        ([*SPECIALS, "a", "b", "a"], "its line 8 repeats line 6"),
        ([*SPECIALS[:4], "a"], r"other special tokens, as \[MASK\] is missing"),
        (["once upon a time"], "other special tokens"),
        ([f"{number}" for number in range(2**20 + 1)], "has 1,048,577 lines"),
    ],
)
def test_bad_lists_of_tokens(lines: list[str], words: str, tmp_path: Path):
    path = write_vocabulary(tmp_path, lines)
    with pytest.raises(UserError, match=words) as error:
        Tokenizer(path=path).read()
    assert path in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "wordpiece"}, "vocab_size of at least 7"),
        ({"kind": "wordpiece", "vocab_size": 6}, "use at least 7"),
        ({"kind": "wordpiece", "vocab_size": 60, "specials": False}, "needs special tokens"),
        ({"kind": "word", "path": "vocab.txt"}, "either a kind or a path"),
        ({"path": "vocab.txt", "vocab_size": 100}, "leave vocab_size and specials out"),
        ({"path": "vocab.txt", "specials": False}, "leave vocab_size and specials out"),
        ({"kind": "bpe", "vocab_size": 300, "lowercase": True}, "lowercase has no meaning for kind bpe"),
        ({"strip_accents": False}, "strip_accents has no meaning for kind word"),
    ],
)
def test_bad_settings(fields: dict, words: str):
    with pytest.raises(UserError, match=words):
        Tokenizer(**fields)


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_vocabulary(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Tokenizer(path="~/vocab.txt").read().vocab_size == len(BERT_LINES)
    for path in ("missing.txt", "", "a\0b", "\ud800", "~nobody/vocab.txt", str(tmp_path)):
        with pytest.raises(UserError, match="cannot be read as a tokenizer"):
            Tokenizer(path=path).read()
    Tokenizer("word").train(["a b"]).save(tmp_path / "tokenizer.json")
    assert Tokenizer(path="~/tokenizer.json").read().pad == 0
    with pytest.raises(UserError, match="says itself how it normalises text"):
        Tokenizer(path="~/tokenizer.json", lowercase=True).read()


def test_special_tokens_of_other_kinds_may_have_other_ids(tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    Tokenizer("whitespace").train(["a b"]).save(path)
    stored = json.loads(path.read_text())
    stored["model"]["vocab"] = {"a": 0, "<unk>": 1, "</s>": 2, "<pad>": 3, "b": 4, "<s>": 5}
    path.write_text(json.dumps(stored))
    read = TrainedTokenizer.load(path)
    assert (read.pad, read.bos, read.eos, read.unk) == (3, 5, 2, 1) and read.cls is read.sep is read.mask is None
    assert read.encode("a zz b <s>") == [0, 1, 4, 1] and read.decode([5, 0, 3, 4, 2, 0]) == "a b"
    assert read.token_bytes == [1, 0, 0, 0, 1, 0] and read.end_token == 2
