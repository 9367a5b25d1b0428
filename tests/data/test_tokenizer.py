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
KINDS = [Tokenizer("character"), Tokenizer("word"), Tokenizer("bpe", 300), Tokenizer("unigram", 400)]
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


def segmentations(word: str) -> list[list[str]]:
    """Every way to cut a word."""
    return [[word]] + [[word[:end], *rest] for end in range(1, len(word)) for rest in segmentations(word[end:])]


def test_unigram_takes_the_most_probable_pieces(tmp_path: Path):
    text = "the theatre there then other others another leather"
    trained = Tokenizer("unigram", 300).train([text] * 3)
    trained.save(tmp_path / "tokenizer.json")
    scores = dict(json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"])
    for word in ("another", "leather", "theother", "heather"):
        possible = [pieces for pieces in segmentations(word) if set(pieces) <= set(scores)]
        best = max(sum(scores[piece] for piece in pieces) for pieces in possible)
        chosen = [trained.id_to_token(token) for token in trained.encode(word)]
        assert len(possible) > 3 and chosen in possible
        assert sum(scores[piece] for piece in chosen) == pytest.approx(best, abs=1e-9)
    assert any(len(piece) > 4 for piece in set(scores) - set(SPECIAL_TOKENS) if not piece.startswith("<0x"))


@pytest.mark.parametrize("specials", [True, False])
def test_unigram_spells_what_it_has_not_seen_in_bytes(specials: bool):
    trained = Tokenizer("unigram", 300, specials).train(["the theatre there then"] * 3)
    text = "the ζ\u2581新 \x00\n<0x41> </s>"
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    assert sum(trained.token_bytes[token] for token in ids) == len(text.encode())
    assert [trained.id_to_token(token) for token in trained.encode("ζ")] == ["<0xCE>", "<0xB6>"]
    assert not specials or min(ids) > UNK


def test_unigram_vocabulary_does_not_depend_on_chance():
    # Far more characters than pieces worth keeping: the library gives these their scores in random order.
    texts = ["".join(map(chr, range(start, start + 40))) + " ab abc abcd" * 5 for start in range(0x4E00, 0x4F00, 40)]
    first, *others = [Tokenizer("unigram", 560).train(texts) for _ in range(4)]
    for other in others:
        assert [other.id_to_token(i) for i in range(560)] == [first.id_to_token(i) for i in range(560)]
        assert other.encode_batch(texts) == first.encode_batch(texts)


def test_unigram_needs_room_for_every_character():
    with pytest.raises(UserError, match=r"vocab_size 264 does not fit the training text .* use a larger one"):
        Tokenizer("unigram", 264).train(["abcdefgh"])


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
        ({"kind": "wordpiece"}, "use character, word, whitespace, bpe or unigram"),
        ({"kind": "character", "vocab_size": 100}, "set vocab_size to None"),
        ({"kind": "bpe"}, "at least 260"),
        ({"kind": "bpe", "vocab_size": 259}, "at least 260"),
        ({"kind": "unigram"}, "at least 261"),
        ({"kind": "unigram", "vocab_size": 260}, "at least 261"),
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
