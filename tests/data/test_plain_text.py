"""Text from outside: encodings and their marks, line ends, gzip, and paths that are no files."""

import gzip
import hashlib
import os
import zlib
from pathlib import Path

import pytest

from research.data import plain_text
from research.data.plain_text import cut, decode, decode_lines, read_text
from research.data.text_file import ParallelText, TextFile
from research.errors import UserError

SEPARATORS = ["\v", "\f", "\x1c", "\x1d", "\x1e", "\x1f", "\x85", "\xa0", "\u2028", "\u2029", "\ufeff"]


def test_only_a_line_feed_ends_a_line():
    text = "first" + "x".join(SEPARATORS) + "\rstill first\r\n\nthird"
    assert cut(text) == ["first" + "x".join(SEPARATORS) + "\rstill first\r\n", "\n", "third"]
    assert decode_lines(text.encode(), "-") == ["first" + "x".join(SEPARATORS) + "\rstill first", "", "third"]
    assert decode_lines(b"a\nb\r\n", "-") == ["a", "b"]
    assert decode_lines(b"", "-") == cut("") == []


def test_a_byte_order_mark_is_no_text(tmp_path: Path):
    for name, content in {
        "plain": b"\xef\xbb\xbfein Text",
        "packed.gz": gzip.compress(b"\xef\xbb\xbfein Text"),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert read_text(str(tmp_path / name)) == "ein Text"
    assert decode(b"\xef\xbb\xbf\xef\xbb\xbfa", "-") == "\ufeffa"  # the mark is the first one alone


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("Text".encode("utf-16"), "is UTF-16, as its byte-order mark says"),
        (b"\xfe\xff\x00T", "is UTF-16, as its byte-order mark says"),
        (b"\xff\xfe\x00\x00T\x00\x00\x00", "is UTF-32, as its byte-order mark says"),
        (b"\x00\x00\xfe\xff\x00\x00\x00T", "is UTF-32, as its byte-order mark says"),
        ("one\ntwo\n".encode("utf-16-le"), r"has a NUL byte at line 1 \(offset 1\)"),
        (b"one\ntw\x00o", r"has a NUL byte at line 2 \(offset 6\)"),
        (b"\xef\xbb\xbfone\ntw\xf6", r"line 2 \(byte 0xf6 at offset 9\)"),
        (b"\xed\xa0\x80", "byte 0xed at offset 0"),  # a surrogate, which UTF-8 excludes
    ],
)
def test_other_encodings_are_named(content: bytes, words: str):
    with pytest.raises(UserError, match=f"^standard input .*{words}.*convert it to UTF-8") as error:
        decode_lines(content, "standard input")
    assert "\n" not in str(error.value)


def spoilt(content: bytes) -> dict[str, bytes]:
    """A gzip file's bytes with other ends; a member ends in its CRC and its length, four bytes each (RFC 1952)."""
    return {
        "trailing": content + b"not gzip",
        "truncated": content[:-9],
        "crc": content[:-8] + bytes([content[-8] ^ 1]) + content[-7:],
        "length": content[:-4] + b"\0\0\0\1",
        "header": content[:5],
        "body": content[:12] + b"\xff\xff\xff" + content[15:],
    }


def test_gzip_by_its_content_whatever_the_name(tmp_path: Path):
    content = gzip.compress(b"one\n") + gzip.compress(b"two\n")  # as `cat a.gz b.gz` writes
    for name in ("a.gz", "a.GZ", "a.txt"):
        (tmp_path / name).write_bytes(content)
        assert read_text(str(tmp_path / name)) == "one\ntwo\n"
    for name, bad in spoilt(gzip.compress(b"some text " * 99)).items():
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(UserError, match=f"{name}' cannot be read") as error:
            read_text(str(tmp_path / name))
        assert "\n" not in str(error.value)


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plain_text, "SMALLEST_LIMIT", 2**20)
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(b"a" * 2**20) for _ in range(64)) + packer.flush()
    (tmp_path / "bomb.gz").write_bytes(bomb)
    pieces = []
    monkeypatch.setattr(gzip.GzipFile, "read", counted(gzip.GzipFile.read, pieces))
    limit = max(2**20, 50 * len(bomb))
    with pytest.raises(UserError, match=rf"bomb.gz holds over {limit:,} bytes once decompressed"):
        read_text(str(tmp_path / "bomb.gz"))
    assert sum(pieces) <= limit + 2**20 < 2**26
    (tmp_path / "small.gz").write_bytes(gzip.compress(b"a" * 2**20))
    assert len(read_text(str(tmp_path / "small.gz"))) == 2**20


def counted(read, sizes: list[int]):
    def wrapper(self, size=-1):
        piece = read(self, size)
        sizes.append(len(piece))
        return piece

    return wrapper


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    cases = {
        "pipe": "not a regular file",
        ".": "not a regular file|holds no text",
        "loop": "cannot be read",
        "dangling": "not exist",
    }
    paths = {str(tmp_path / name): words for name, words in cases.items()}
    paths |= {
        "/dev/zero": "not a regular file",
        "": "not a regular file|have none",
        "a\0b": "null",
        "x" * 5000: "too long",
    }
    paths |= {"~nobody_of_this_name/a": "cannot be read"}
    for path, words in paths.items():
        for source in (TextFile(path), ParallelText(path, path)):
            with pytest.raises(UserError, match=words) as error:
                source.examples("train")
            assert "\n" not in str(error.value)


def test_odd_names_and_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a b", "a'b\"c", "[1]*?", "日本 é", "100%", "n" * 200, "-x", "a:b", "a\\b"):
        (tmp_path / name).write_bytes(b"words")
        assert read_text(str(tmp_path / name)) == read_text(f"~/{name}") == "words"


def test_fingerprints_are_of_the_text(tmp_path: Path):
    text = "".join(chr(0xE0 + index) for index in range(20))
    (tmp_path / "a").write_bytes(text.encode())
    (tmp_path / "b").write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.encode()))
    for name in "ab":
        source = TextFile(str(tmp_path / name), validation_fraction=0.25)
        assert source.fingerprint("train") == hashlib.sha256(text[:15].encode()).hexdigest()
        assert source.fingerprint("validation") == hashlib.sha256(text[15:].encode()).hexdigest()
    contents = {"a": b"1\n2", "b": b"1\r\n2\r\n", "c": b"1\n3\n", "d": b"12\n"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    files = {name: str(tmp_path / name) for name in contents}
    pairs = {name: ParallelText(files[name], files[name]).fingerprint("train") for name in contents}
    assert pairs["a"] == pairs["b"] and len(set(pairs.values())) == 3
    assert ParallelText(files["a"], files["c"]).fingerprint("train") != ParallelText(
        files["c"], files["a"]
    ).fingerprint("train")
