"""Tokenizers: lossless, special tokens at fixed ids, nothing in a text is taken for a special token."""

import json
from pathlib import Path

import numpy as np
import pytest

from research.data.tokenizer import BOS, EOS, PAD, SPECIAL_TOKENS, UNK, Tokenizer, TrainedTokenizer
from research.errors import UserError

TEXTS = [
    "Hello, world!  Two spaces,\ta tab\nand\r\n\r\n  new lines ",
    "5,00\u00a0€ le 12 mai 2031 \u2014 l\u2019été\u202f: ça va?!",
    "日本語 हिन्दी e\u0301 👍🏽 </s> <pad> x_1 y^2",
]
KINDS = [Tokenizer("character"), Tokenizer("word"), Tokenizer("bpe", 300)]
identify = pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)


@identify
def test_round_trip_is_lossless(config: Tokenizer, tmp_path: Path):
    trained = config.train(TEXTS)
    trained.save(tmp_path / "tokenizer.json")
    loaded = TrainedTokenizer.load(tmp_path / "tokenizer.json")
    for text in TEXTS:
        ids = trained.encode(text)
        assert trained.decode(ids) == text
        assert min(ids) > UNK  # no text, "</s>" included, is taken for a special token
        assert loaded.encode(text) == ids and loaded.decode(ids) == text
    assert trained.encode_batch(TEXTS) == [trained.encode(text) for text in TEXTS]
    assert (
        loaded.vocab_size
        == trained.vocab_size
        == 1 + max(token for token in range(1000) if trained.id_to_token(token) is not None)
    )


@identify
def test_special_tokens_have_fixed_ids(config: Tokenizer):
    trained = config.train(TEXTS)
    assert (PAD, BOS, EOS, UNK) == (0, 1, 2, 3)
    assert tuple(trained.id_to_token(token) for token in range(4)) == SPECIAL_TOKENS
    ids = trained.encode("Hello")
    assert trained.decode(np.array([BOS, *ids, EOS, *ids, PAD])) == "Hello"


@identify
def test_training_is_deterministic_and_line_by_line_is_the_same(config: Tokenizer):
    trained, again = config.train(TEXTS), config.train(TEXTS)
    assert [trained.id_to_token(i) for i in range(trained.vocab_size)] == [
        again.id_to_token(i) for i in range(again.vocab_size)
    ]
    lines = trained.encode_batch(TEXTS[0].splitlines(keepends=True))
    assert [token for line in lines for token in line] == trained.encode(TEXTS[0])


def test_character_ids_are_sorted():
    trained = Tokenizer("character", specials=False).train(["bca\n", "é b"])
    assert [trained.id_to_token(token) for token in range(trained.vocab_size)] == ["\n", " ", "a", "b", "c", "é"]
    assert trained.encode("abc") == [2, 3, 4]
    assert trained.decode([2, 3, 4, 0]) == "abc\n"  # without special tokens, ids 0 to 3 are text
    with pytest.raises(UserError, match=r"tokenizer\.specials"):
        trained.encode("z")
    assert Tokenizer("character").train(["bca\n", "é b"]).encode("abcz") == [6, 7, 8, UNK]


def test_words_carry_their_space_and_digits_come_alone():
    trained = Tokenizer("word").train(["the cat, in 2031  sat\u00a0!"])
    tokens = [trained.id_to_token(token) for token in trained.encode("the cat, in 2031  sat\u00a0!")]
    assert tokens == ["the", " cat", ",", " in", " ", "2", "0", "3", "1", " ", " sat", "\u00a0!"]


def test_word_vocabulary_keeps_the_most_frequent():
    trained = Tokenizer("word", vocab_size=6).train(["a a a a b b b c"])
    assert trained.vocab_size == 6
    assert [trained.id_to_token(token) for token in (4, 5)] == [" a", " b"]
    assert trained.encode(" a c") == [4, UNK]


def test_bpe_knows_every_text_and_merges():
    trained = Tokenizer("bpe", 400).train(["the theatre there then"] * 3)
    assert trained.decode(trained.encode("ζ 新 \x00 🦄\n")) == "ζ 新 \x00 🦄\n"
    assert len(trained.encode("the")) == 1
    assert Tokenizer("bpe", 260).train(["aa aa"]).vocab_size == 260


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as a tokenizer"),
        (None, "cannot be read as a tokenizer"),
        (b"\xff\xfe", "cannot be read as a tokenizer"),
        ("foreign", "other special tokens"),
    ],
)
def test_damaged_or_foreign_file_is_named(tmp_path: Path, content: str | bytes | None, message: str):
    path = tmp_path / "tokenizer.json"
    if content == "foreign":
        Tokenizer("word").train(["a b"]).save(path)
        foreign = json.loads(path.read_text())
        foreign["model"]["vocab"] = {"[PAD]": 0, "<unk>": 1, "a": 2}
        content = json.dumps(foreign)
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as error:
        TrainedTokenizer.load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "wordpiece"}, "use character, word, whitespace or bpe"),
        ({"kind": "character", "vocab_size": 100}, "set vocab_size to None"),
        ({"kind": "bpe"}, "at least 260"),
        ({"kind": "bpe", "vocab_size": 259}, "at least 260"),
        ({"kind": "word", "vocab_size": 3}, "at least 5"),
    ],
)
def test_bad_settings(fields: dict, message: str):
    with pytest.raises(UserError, match=message):
        Tokenizer(**fields)


def test_whitespace_takes_what_stands_between_spaces():
    tokenizer = Tokenizer("whitespace").train(["jump twice", "I_JUMP I_JUMP jump", "ein@@ kaufen"])
    ids = tokenizer.encode("twice jump I_JUMP jump")
    assert len(ids) == 4 and ids[1] == ids[3]
    assert tokenizer.decode(ids) == "twice jump I_JUMP jump"
    assert tokenizer.vocab_size == 4 + 5
