"""Tokenizers: lossless, special tokens at fixed ids, nothing in a text is taken for a special token."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from research.config import build
from research.data.tokenizer import BOS, EOS, PAD, SPECIAL_TOKENS, UNK, Tokenizer, TrainedTokenizer
from research.errors import UserError

TEXTS = [
    "Hello, world!  Two spaces,\ta tab\nand\r\n\r\n  new lines ",
    "5,00\u00a0€ le 12 mai 2031 \u2014 l\u2019été\u202f: ça va?!",
    "日本語 हिन्दी e\u0301 👍🏽 </s> <pad> x_1 y^2",
]
KINDS = [Tokenizer("character"), Tokenizer("word"), Tokenizer("bpe", 300), Tokenizer("unigram", 400)]
identify = pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)


def as_bytes(trained: TrainedTokenizer, kind: str):
    """What one id is in UTF-8: GPT-2's alphabet shows the bytes that are not printable as characters from 256 on."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = {chr(byte): byte for byte in kept}
    alphabet |= {chr(256 + place): byte for place, byte in enumerate(byte for byte in range(256) if byte not in kept)}

    def convert(token: int) -> bytes:
        piece = trained.id_to_token(token)
        return bytes(alphabet[letter] for letter in piece) if kind == "bpe" else piece.encode()

    return convert


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
    lines = re.findall("[^\n]*\n|[^\n]+", TEXTS[0])
    tokens, ends = trained.encode_lines(lines)
    assert tokens.tolist() == trained.encode(TEXTS[0])
    pieces = np.split(np.frombuffer(TEXTS[0].encode(), np.uint8), ends)
    assert [bytes(piece) for piece in pieces] == [*map(as_bytes(trained, config.kind), tokens), b""]
    assert trained.encode_batch(TEXTS) == [trained.encode(text) for text in TEXTS]
    assert (
        loaded.vocab_size
        == trained.vocab_size
        == 1 + max(token for token in range(1000) if trained.id_to_token(token) is not None)
    )


@identify
def test_many_lines_at_once_are_as_each_line_alone(config: Tokenizer):
    trained, random = config.train(TEXTS), np.random.default_rng(0)
    letters = [*"".join(TEXTS), "\n", "\n", " ", "\r", "\x0c", "\u2028", "ß", "é"]
    lines = ["".join(random.choice(letters, size)).replace("\n", "") + "\n" for size in random.integers(0, 30, 900)]
    lines[::9] = [line.rstrip("\n") or "x" for line in lines[::9]]  # where one text ends, and the next begins
    tokens, ends = trained.encode_lines(lines)
    starts = np.cumsum([0, *(len(line.encode()) for line in lines)])
    alone = [trained.encode_lines([line]) for line in lines]
    assert tokens.tolist() == [token for line, _ in alone for token in line]
    assert ends.tolist() == [start + end for start, (_, line) in zip(starts, alone, strict=False) for end in line]


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
        ({"kind": "sentencepiece"}, "'character', 'word', 'whitespace', 'bpe', 'unigram', 'wordpiece'"),
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
        build(Tokenizer, fields, "task.tokenizer")


def test_whitespace_takes_what_stands_between_spaces():
    tokenizer = Tokenizer("whitespace").train(["jump twice", "I_JUMP I_JUMP jump", "ein@@ kaufen"])
    ids = tokenizer.encode("twice jump I_JUMP jump")
    assert len(ids) == 4 and ids[1] == ids[3]
    assert tokenizer.decode(ids) == "twice jump I_JUMP jump"
    assert tokenizer.vocab_size == 4 + 5


WORD_FILE, BPE_FILE, UNIGRAM_FILE = Tokenizer("word"), Tokenizer("bpe", 300), Tokenizer("unigram", 300)
CATASTROPHE = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
FOREIGN = {  # kind, the path to a part of the file, and what takes its place
    "slow expression": (WORD_FILE, ("pre_tokenizer",), CATASTROPHE),
    "slow expression within": (BPE_FILE, ("pre_tokenizer", "pretokenizers", 0), CATASTROPHE),
    "no expression": (WORD_FILE, ("pre_tokenizer", "pattern", "Regex"), "("),
    "normaliser": (WORD_FILE, ("normalizer",), {"type": "Lowercase"}),
    "replacing decoder": (WORD_FILE, ("decoder",), {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}),
    "post-processor": (WORD_FILE, ("post_processor",), {"type": "ByteLevel"}),
    "padding": (WORD_FILE, ("padding",), {"strategy": {"Fixed": 2**40}, "direction": "Right", "pad_id": 0,
                                          "pad_to_multiple_of": None, "pad_type_id": 0, "pad_token": "a"}),
    "truncation": (WORD_FILE, ("truncation",), {"max_length": 1, "strategy": "LongestFirst", "stride": 1,
                                                "direction": "Right"}),
    "added tokens": (WORD_FILE, ("added_tokens",), [{"id": 0, "content": "a"}]),
    "other model": (WORD_FILE, ("model",), {"type": "WordPiece", "vocab": {"a": 0}}),
    "no model": (WORD_FILE, ("model",), None),
    "no vocabulary": (WORD_FILE, ("model", "vocab"), None),
    "a list": (WORD_FILE, ("model", "vocab"), ["a"]),
    "ids with gaps": (WORD_FILE, ("model", "vocab"), {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "a": 2**31}),
    "negative ids": (WORD_FILE, ("model", "vocab", "<pad>"), -1),
    "text as id": (WORD_FILE, ("model", "vocab", "<pad>"), "0"),
    "dropout": (BPE_FILE, ("model", "dropout"), 0.5),
    "merges of nothing": (BPE_FILE, ("model", "merges"), [["no", "such"]]),
    "merges of numbers": (BPE_FILE, ("model", "merges"), [[1, 2]]),
    "bytes missing": (BPE_FILE, ("model", "vocab"), {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "a": 4}),
    "unknown beyond": (UNIGRAM_FILE, ("model", "unk_id"), 10**6),
    "empty piece": (UNIGRAM_FILE, ("model", "vocab", -1), ["", 0.0]),
    "piece without score": (UNIGRAM_FILE, ("model", "vocab", -1), ["a"]),
    "piece twice": (UNIGRAM_FILE, ("model", "vocab", -1), ["<pad>", 0.0]),
    "score as text": (UNIGRAM_FILE, ("model", "vocab", -1), ["a", "b"]),
    "infinite score": (UNIGRAM_FILE, ("model", "vocab", -1), ["zz", float("inf")]),
    "lone surrogate": (WORD_FILE, ("model", "vocab"), {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "\ud800": 4}),
}  # fmt: skip


@pytest.mark.parametrize("case", FOREIGN)
def test_rules_of_a_file_are_not_run(case: str, tmp_path: Path):
    config, (*way, last), value = FOREIGN[case]
    path = tmp_path / "tokenizer.json"
    config.train(["the theatre there then"] * 3).save(path)
    stored = part = json.loads(path.read_text())
    for name in way:
        part = part[name]
    part[last] = value
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"(of another make|as a tokenizer|other special tokens).*: ") as error:
        TrainedTokenizer.load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", "null", "3", "NaN", "{", '{"a": ', "\x00\x01", "[" * 100_000, "{}"])
def test_other_content_is_one_sentence(content: str, tmp_path: Path):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="a tokenizer") as error:
        TrainedTokenizer.load(tmp_path / "tokenizer.json")
    assert "\n" not in str(error.value)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 2**40)  # a hole, which takes no space
    for name, words in {"pipe": "is not a file", ".": "is not a file", "huge": "1,099,511,627,776 bytes"}.items():
        with pytest.raises(UserError, match=f"cannot be read as a tokenizer: it .*{words}"):
            TrainedTokenizer.load(tmp_path / name)


@pytest.mark.parametrize("kind", ["character", "word", "whitespace", "bpe", "unigram"])
@pytest.mark.parametrize("specials", [True, False])
def test_every_kind_loads_what_it_saved(kind: str, specials: bool, tmp_path: Path):
    texts = [text.replace("</s> <pad> ", "") for text in TEXTS]
    trained = Tokenizer(kind, {"bpe": 300, "unigram": 400}.get(kind), specials).train(texts)
    trained.save(tmp_path / "tokenizer.json")
    loaded = TrainedTokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.encode_batch(texts) == trained.encode_batch(texts) and loaded.specials == specials
    assert [loaded.id_to_token(i) for i in range(loaded.vocab_size)] == [
        trained.id_to_token(i) for i in range(trained.vocab_size)
    ]


@pytest.mark.parametrize("kind", ["character", "word", "whitespace", "bpe", "unigram"])
@pytest.mark.parametrize(("marks", "around"), [("both", (1, 2)), ("end", (None, 2)), ("none", (None, None))])
def test_what_is_published_has_marks_and_comes_back_without(kind: str, marks: str, around: tuple, tmp_path: Path):
    """<s> is 1 and </s> is 2."""
    trained = Tokenizer(kind, None if kind == "character" else 400).train(TEXTS)
    trained.publish(tmp_path, marks, segments=False)
    first, last = ([] if token is None else [token] for token in around)
    other = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert other.encode(TEXTS[0]).ids == [*first, *trained.encode(TEXTS[0]), *last]
    assert TrainedTokenizer.load(tmp_path / "tokenizer.json").digest == trained.digest
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["eos_token"] == "</s>" and "token_type_ids" not in config["model_input_names"]


def test_a_file_of_the_first_edition_loads(tmp_path: Path):
    """Its content, written out: a change of the library's or of these rules must not lock out old runs."""
    rules = {"type": "Split", "behavior": "Isolated", "invert": False}
    rules["pattern"] = {"Regex": "[^\\S\\r\\n]?[\\p{L}\\p{M}]+|\\p{N}|[^\\S\\r\\n]?[^\\s\\p{L}\\p{M}\\p{N}]|\\s"}
    stored = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": rules,
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": {"a": 0, " b": 1}, "unk_token": "<unk>"},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    assert TrainedTokenizer.load(tmp_path / "tokenizer.json").encode("a b b") == [0, 1, 1]


def test_a_lone_surrogate_is_no_unknown_character():
    with pytest.raises(UserError, match="holds a lone surrogate, which is not a character: convert it to UTF-8"):
        Tokenizer("word").train(TEXTS).encode("caf\udce9")


def test_a_panic_of_the_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    class PanicException(BaseException):
        """As Rust's: not an Exception."""

    class Panicking:
        def __getattr__(self, name):
            def fails(*_):
                raise PanicException("called `Option::unwrap()`\n on a `None` value")

            return fails

    trained = Tokenizer("word").train(TEXTS)
    trained._tokenizer = Panicking()
    for call in (lambda: trained.encode("a"), lambda: trained.decode([4])):
        with pytest.raises(UserError, match=r"\(called `Option::unwrap\(\)` on a `None` value\): "):
            call()

    def interrupted():
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        Tokenizer("character").train(interrupted())


def test_words_that_read_like_special_tokens_are_unknown(tmp_path: Path):
    """Texts that come tokenised often have "<unk>", as the Penn Treebank's: its id is the vocabulary's own."""
    text = "<unk> </s> a <unk> <unk>\n</s> <pad> <s> a </s>b"
    trained = Tokenizer("whitespace").train([text])
    trained.save(tmp_path / "tokenizer.json")
    for tokenizer in (trained, TrainedTokenizer.load(tmp_path / "tokenizer.json")):
        assert tokenizer.vocab_size == 4 + 2 and tokenizer.specials
        assert tokenizer.encode(text) == [UNK, UNK, 4, *[UNK] * 5, 4, 5]
        assert tokenizer.decode([4, 5]) == "a </s>b"
    with pytest.raises(UserError, match=r"has the word '<unk>': set tokenizer\.specials to True"):
        Tokenizer("whitespace", specials=False).train([text])
