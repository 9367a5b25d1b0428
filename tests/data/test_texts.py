"""Texts of files as a stream: formats, parts, and what is left out; against plain reading of the whole."""

import gzip
import itertools
import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from research.data import parquet as tables
from research.data import plain_text, texts
from research.data.text_file import TextFile
from research.data.texts import Texts, beginnings, chunks_of_texts, files_of
from research.errors import UserError

DOCUMENTS = ["one\ntwo", "", "drei ünd\n\n", "日本\u2028語"]


def read(examples) -> list[str]:
    return [example["text"] for example in examples]


@pytest.fixture
def formats(tmp_path: Path) -> dict[str, str]:
    """The same documents in every format of records."""
    lines = "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in DOCUMENTS).encode()
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "c.JSONL.zst").write_bytes(pyarrow.compress(lines, codec="zstd", asbytes=True))
    parquet.write_table(pyarrow.table({"id": [1] * 4, "text": DOCUMENTS}), tmp_path / "d.parquet")
    return {name: str(tmp_path / name) for name in ("a.jsonl", "b.jsonl.gz", "c.JSONL.zst", "d.parquet")}


def test_records_of_every_format_are_the_same_texts(formats: dict[str, str]):
    found = {name: Texts((path,)) for name, path in formats.items()}
    assert {name: read(texts) for name, texts in found.items()} == dict.fromkeys(formats, DOCUMENTS)
    assert len({texts.fingerprint for texts in found.values()}) == 1
    for found_texts in found.values():
        assert len(found_texts) == 4 and found_texts[2] == {"text": DOCUMENTS[2]} == found_texts[-2]
        assert found_texts.characters == sum(map(len, DOCUMENTS))
        with pytest.raises(IndexError):
            found_texts[4]


def test_a_plain_file_is_one_text_however_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = "eins\n" * 9 + "日本語 " * 9 + "\n\nlast line without an end"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "b.txt.zst").write_bytes(pyarrow.compress(text.encode(), codec="zstd", asbytes=True))
    for size in (1, 7, 64, 2**20):
        monkeypatch.setattr(plain_text, "PIECE", size)
        for name in ("a.txt", "b.txt.zst"):
            assert read(Texts((str(tmp_path / name),))) == [text]
            for end in range(0, len(text), 7):
                parts = [Texts((str(tmp_path / name),), start=a, end=b) for a, b in ((0, end), (end, None))]
                assert "".join(itertools.chain.from_iterable(map(read, parts))) == text


def test_a_long_line_is_cut_at_a_space_and_never_within_a_character(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plain_text, "PIECE", 16)
    monkeypatch.setattr(plain_text, "LONGEST_LINE", 20)
    text = "word " * 20 + "日本語" * 30 + "\n"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    pieces = list(plain_text.read_pieces(str(tmp_path / "a.txt")))
    assert "".join(pieces) == text and max(len(piece.encode()) for piece in pieces) <= 20 + 16
    assert pieces[1].startswith(" word")


def test_errors_are_named_by_their_line_in_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plain_text, "PIECE", 8)
    for content, words in (
        (b"line\n" * 9 + b"\xff\n", r"line 10 \(byte 0xff at offset 45\)"),
        (b"a\n" * 9 + b"\0", "line 10 \\(offset 18\\)"),
    ):
        (tmp_path / "a.txt").write_bytes(content)
        with pytest.raises(UserError, match=words):
            list(plain_text.read_pieces(str(tmp_path / "a.txt")))


def test_files_of_a_folder_and_of_a_pattern(tmp_path: Path):
    for name in ("b.txt", "a/c.TXT", "a.jsonl", "notes.pdf", ".hidden.txt", "x.tokens/y.txt", "d.txt.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(gzip.compress(b"d") if name.endswith("gz") else b'{"text": "j"}\n')
    found, others = files_of(str(tmp_path))
    assert [Path(name).relative_to(tmp_path).as_posix() for name in found] == [
        "a.jsonl",
        "a/c.TXT",
        "b.txt",
        "d.txt.gz",
    ]
    assert [Path(name).name for name in others] == ["notes.pdf"]
    assert files_of(f"{tmp_path}/*.txt*") == ((f"{tmp_path}/b.txt", f"{tmp_path}/d.txt.gz"), [])
    (tmp_path / "odd[1].txt").write_text("odd")
    assert files_of(f"{tmp_path}/odd[1].txt") == ((f"{tmp_path}/odd[1].txt",), [])  # a name that exists is no pattern
    source = TextFile(str(tmp_path), 0.0)
    assert source.left_out("train") == [
        f"1 files below {tmp_path} are left out, as their names are not of text: {tmp_path}/notes.pdf"
    ]
    with pytest.raises(UserError, match="no file has a name like"):
        files_of(f"{tmp_path}/*.none")
    with pytest.raises(UserError, match="holds no text"):
        (tmp_path / "empty").mkdir()
        files_of(str(tmp_path / "empty"))


def test_splits_by_share_and_by_file(tmp_path: Path):
    records = "".join(json.dumps({"words": text}) + "\n" for text in ("aaaa", "bbbb", "cccc", "dd"))  # 14 characters
    (tmp_path / "a.jsonl").write_text(records)
    source = TextFile(str(tmp_path / "a.jsonl"), 0.25, 0.2, field="words")
    # by hand: training ends at int(14 * 0.55) = 7 characters, validation at int(14 * 0.8) = 11
    assert {split: read(source.examples(split)) for split in source.splits} == {
        "train": ["aaaa", "bbbb"],
        "validation": ["cccc"],
        "test": ["dd"],
    }
    (tmp_path / "b.txt").write_text("held out")
    source = TextFile(str(tmp_path / "a.jsonl"), validation_path=str(tmp_path / "b.txt"), field="words")
    assert source.splits == ("train", "validation") and len(source.examples("train")) == 4
    assert read(source.examples("validation")) == ["held out"]
    for bad in ({"validation_fraction": 0.1, "validation_path": "b"}, {"test_fraction": 0.1, "test_path": "b"}):
        with pytest.raises(UserError, match="leave one out"):
            TextFile("a", **bad)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"text": "a"}\n{"other": "b"}\n', "record 2 .* has no text 'text' \\('other'\\): set data.field"),
        ('{"text": "a"}\n\n{"text": 3}\n', "record 2 .* has no text 'text'"),
        ('{"text": "a"}\n{"text": \n', "line 2 of .* is not JSON"),
        ('["a"]\n', "record 1 .* has no text 'text' \\(list\\)"),
        ("[" * 100_000 + "\n", "line 1 of .* is not JSON"),
        ('{"text": "a\\ud800b"}\n', "record 1 of .* has half a surrogate pair"),
        ('{"text": "a"}\n{"text": "a\\u0000b"}\n', "record 2 of .* has a NUL character"),
    ],
)
def test_bad_records_are_named(tmp_path: Path, content: str, words: str):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(UserError, match=words) as error:
        list(Texts((str(tmp_path / "a.jsonl"),)))
    assert "\n" not in str(error.value)


def test_bad_tables_are_named(tmp_path: Path, formats: dict[str, str]):
    with pytest.raises(UserError, match=r"has no column 'body' \(it has 'id', 'text'\)"):
        list(Texts((formats["d.parquet"],), "body"))
    with pytest.raises(UserError, match=r"record 1 of .* has no text 'id'"):
        list(Texts((formats["d.parquet"],), "id"))
    content = Path(formats["d.parquet"]).read_bytes()
    for number, spoilt in enumerate((b"PAR1", content[:-9], b"PAR1" + b"\xff" * len(content), b"words")):
        (tmp_path / f"{number}.parquet").write_bytes(spoilt)
        with pytest.raises(UserError) as error:
            list(Texts((str(tmp_path / f"{number}.parquet"),)))
        assert "\n" not in str(error.value)
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match=r"is a compressed Parquet file, which is read from its end: decompress it"):
        list(Texts((str(tmp_path / "a.parquet.gz"),)))


def test_a_table_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    parquet.write_table(pyarrow.table({"text": ["a" * 10_000_000]}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 1_000_000
    monkeypatch.setattr(tables, "SMALLEST_LIMIT", 5_000_000)
    monkeypatch.setattr(tables, "EXPANSION", 2)
    with pytest.raises(UserError, match=r"holds [0-9,]+ bytes, more than one of its size would"):
        list(Texts((str(tmp_path / "a.parquet"),)))


def test_a_key_of_records_has_no_meaning_for_plain_text(tmp_path: Path):
    (tmp_path / "a.txt").write_text("one\ntwo\n" * 20)
    with pytest.raises(UserError, match=r"data\.field 'body' is for \.jsonl and \.parquet files"):
        TextFile(str(tmp_path / "a.txt"), field="body").examples("train")


def test_chunks_hold_every_piece_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(texts, "CHUNK", 10)
    examples = [{"text": text} for text in ("aaa", "b" * 12, "", "c" * 9, "d", "e")]
    chunks = list(chunks_of_texts(examples))
    assert [piece for chunk in chunks for piece in chunk] == [(example["text"], True) for example in examples]
    assert len(chunks) == 2 and all(sum(len(text) for text, _ in chunk) >= 10 for chunk in chunks)
    assert list(chunks_of_texts([{"text": "a"}])) == [[("a", True)]]


@pytest.mark.parametrize("size", [1, 3, 50])
def test_beginnings_of_lines_evenly_spaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int):
    text = "".join(f"line {number}\n" for number in range(100))
    (tmp_path / "a.txt").write_text(text)
    starts = [text.find("\n", len(text) * part // 4) + 1 if part else 0 for part in range(4)]
    expected = [text[start : start + size] for start in starts]
    assert beginnings([{"text": text}], 4, size) == expected
    for piece in (5, 64):
        monkeypatch.setattr(plain_text, "PIECE", piece)
        assert beginnings(Texts((str(tmp_path / "a.txt"),)), 4, size) == expected
    assert beginnings([{"text": "abc"}, {"text": "de"}, {"text": "f"}], 2, 2) == ["ab", "de"]
