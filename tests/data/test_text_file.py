"""Text files: exact ranges and lines, plain or gzip, and one sentence for every bad file."""

import gzip
from pathlib import Path

import pytest

from research.data.text_file import ParallelText, TextFile
from research.errors import UserError


def write(path: Path, content: bytes) -> str:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


@pytest.mark.parametrize("name", ["text.txt", "text.txt.gz"])
def test_contiguous_ranges_of_characters(tmp_path: Path, name: str):
    text = "".join(chr(0xE0 + index) for index in range(15)) + "\r\n\u2028 end"  # 22 characters, more bytes
    source = TextFile(write(tmp_path / name, text.encode()), validation_fraction=0.25, test_fraction=0.25)
    assert source.splits == ("train", "validation", "test")
    parts = [source.examples(split) for split in source.splits]
    assert [len(part) for part in parts] == [1, 1, 1]
    assert [part[0]["text"] for part in parts] == [text[:11], text[11:16], text[16:]]


def test_default_is_nanogpts_split(tmp_path: Path):
    text = "abcdefghij" * 101 + "xyz"
    source = TextFile(write(tmp_path / "text.txt", text.encode()))
    assert source.splits == ("train", "validation")
    assert source.examples("train")[0]["text"] == text[: int(len(text) * 0.9)]
    assert source.examples("validation")[0]["text"] == text[int(len(text) * 0.9) :]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_parallel_lines(tmp_path: Path, suffix: str):
    source = write(tmp_path / f"en{suffix}", "a dog\r\n\nsplit\u2028not\u0085here\n".encode())
    target = write(tmp_path / f"de{suffix}", b"ein Hund\n\nende")
    text = ParallelText(source, target, test_source=source, test_target=target)
    assert text.splits == ("train", "test")
    assert list(text.examples("train")) == [
        {"source": "a dog", "target": "ein Hund"},
        {"source": "", "target": ""},
        {"source": "split\u2028not\u0085here", "target": "ende"},
    ]
    with pytest.raises(UserError, match="split 'validation' is unknown: use train or test"):
        text.examples("validation")


def test_bad_files(tmp_path: Path):
    good = write(tmp_path / "good", b"one\ntwo\n")
    cases = {
        "missing": (str(tmp_path / "missing"), "does not exist"),
        "empty": (write(tmp_path / "empty", b""), "is empty"),
        "empty gz": (write(tmp_path / "empty.gz", b""), "is empty"),
        "folder": (str(tmp_path), "cannot be read|holds no text"),
        "latin": (write(tmp_path / "latin", b"one\ntw\xf6\n"), r"line 2 \(byte 0xf6 at offset 6\)"),
    }
    (tmp_path / "plain.gz").write_bytes(b"not gzip")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"some text" * 100)[:-12])
    cases |= {name: (str(tmp_path / name), "cannot be read") for name in ("plain.gz", "cut.gz")}
    for path, message in cases.values():
        for source in (TextFile(path), ParallelText(good, path), ParallelText(path, good)):
            with pytest.raises(UserError, match=message) as error:
                source.examples("train")
            assert path in str(error.value)


def test_files_of_different_length(tmp_path: Path):
    source, target = write(tmp_path / "en", b"1\n2\n3\n"), write(tmp_path / "de", b"1\n2\n")
    with pytest.raises(UserError, match=r"en has 3 lines and .*de has 2"):
        ParallelText(source, target).examples("train")


def test_bad_settings(tmp_path: Path):
    with pytest.raises(UserError, match="test_target is missing"):
        ParallelText("a", "b", test_source="c")
    with pytest.raises(UserError, match="leave nothing to train on"):
        TextFile("a", validation_fraction=0.5, test_fraction=0.5)
    with pytest.raises(UserError, match="too short for a train split"):
        TextFile(write(tmp_path / "a", b"a"), validation_fraction=0.5).examples("train")
