"""Text from outside, decoded and cut into lines in one way everywhere: files, also compressed, and standard input."""

import codecs
import contextlib
import gzip
import io
import stat
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from research.errors import UserError

GZIP_MARK, ZSTANDARD_MARK = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
SMALLEST_LIMIT, EXPANSION = 2**28, 50
"""Bytes that a compressed file may hold, and how many times its own: text shrinks to a third, bombs to a thousandth."""

PIECE = 2**20
"""Bytes that are read at once."""
LONGEST_LINE = 2**26
"""Bytes of a line after which it is cut, at a space where there is one: no line has to fit in memory."""

_OTHERS = {  # the longer marks first: UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


class Readable(Protocol):
    """What reading needs of a stream."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


def decode(content: bytes | bytearray, name: str) -> str:
    """The text of UTF-8 bytes, without the byte-order mark that may stand at their start. Raises as `decoded` does."""
    return "".join(decoded(io.BytesIO(content), name))


def decoded(stream: Readable, name: str) -> Iterator[str]:
    """The text of a stream of UTF-8 bytes, without their byte-order mark, in pieces of about PIECE bytes.

    Each piece ends with a line feed, or with the text, or where a line has more than LONGEST_LINE bytes. Raises a
    UserError that begins with `name` for bytes of another encoding and for NUL bytes, which no text has.
    """
    rest, offset, lines = b"", 0, 0
    while True:
        block = stream.read(PIECE)
        content = rest + block
        end = _end(content) if block else len(content)
        if end:
            yield _text(content[:end], name, offset, lines)
        if not block:
            return
        rest, offset, lines = content[end:], offset + end, lines + content.count(b"\n", 0, end)


def _end(content: bytes) -> int:
    """Where the last whole line of some bytes ends; 0 if there is none and the line may go on."""
    end = content.rfind(b"\n") + 1
    if end or len(content) <= LONGEST_LINE:
        return end
    end = content.rfind(b" ")
    if end <= 0:
        end = len(content) - next((back for back in range(1, 5) if content[-back] & 0xC0 != 0x80), 0)
    return end


def _text(content: bytes, name: str, offset: int, lines: int) -> str:
    """Decodes bytes that begin at an offset, after a number of lines."""
    start = 0
    if offset == 0:
        for mark, encoding in _OTHERS.items():
            if content.startswith(mark):
                raise UserError(f"{name} is {encoding}, as its byte-order mark says: convert it to UTF-8")
        start = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
    nul = content.find(b"\0")
    if nul >= 0:
        raise UserError(
            f"{name} has a NUL byte at line {lines + _line(content, nul)} (offset {offset + nul}), as UTF-16 and files "
            "that are not text have: convert it to UTF-8 text"
        )
    try:
        return content[start:].decode("utf-8")
    except UnicodeDecodeError as error:
        place = start + error.start
        raise UserError(
            f"{name} is not UTF-8 at line {lines + _line(content, place)} (byte 0x{content[place]:02x} at offset "
            f"{offset + place}): convert it to UTF-8"
        ) from error


def _line(content: bytes, offset: int) -> int:
    return content.count(b"\n", 0, offset) + 1


def cut(text: str) -> list[str]:
    """The lines of a text, each with the line feed that ends it: joined, they are the text.

    Nothing else ends a line: str.splitlines also cuts at form feeds, U+0085 and U+2028, which stand within sentences
    and within tokens.
    """
    lines = text.split("\n")
    return [f"{line}\n" for line in lines[:-1]] + lines[-1:] * bool(lines[-1])


def lines_of(text: str) -> list[str]:
    r"""The lines of a text without their ends, "\n" or "\r\n"; the last one may lack its end."""
    return [line.removesuffix("\n").removesuffix("\r") for line in cut(text)]


def decode_lines(content: bytes, name: str) -> list[str]:
    """`lines_of` the text that `decode` gives; raises its UserErrors."""
    return lines_of(decode(content, name))


def check_text(text: str, what: str) -> None:
    """Raises a UserError that begins with `what` for a string that cannot be encoded, as JSON and Parquet may hold."""
    if "\0" in text:
        raise UserError(f"{what} has a NUL character, which no text has: remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{what} has half a surrogate pair, which is not a character: correct it") from error


def read_text(path: str) -> str:
    """The text of a file. Raises a UserError for one that `opened` refuses, that is empty or not text."""
    text = "".join(read_pieces(path))
    if not text:
        raise UserError(f"{path} is empty: give a file with text")
    return text


def read_pieces(path: str) -> Iterator[str]:
    """The text of a file in the pieces of `decoded`. Raises a UserError for one that is missing or not text."""
    with opened(path) as stream:
        yield from decoded(stream, path)


@contextlib.contextmanager
def opened(path: str) -> Iterator[Readable]:
    """A file's bytes, decompressed where they are gzip or Zstandard, whatever its name; "~/" is the home folder.

    Raises a UserError for one that is missing, not a regular file or unreadable, also when that shows in reading.
    """
    try:
        file = Path(path).expanduser()
        if not stat.S_ISREG(file.stat().st_mode):
            raise UserError(
                f"{path} cannot be read, as it is not a regular file: give a file, which is read repeatedly"
            )
        with file.open("rb") as raw:
            mark, size = raw.read(4), file.stat().st_size
            raw.seek(0)
            if mark.startswith(GZIP_MARK) or (mark and file.suffix == ".gz"):
                yield _Limited(gzip.GzipFile(fileobj=raw), path, size)
            elif mark == ZSTANDARD_MARK or (mark and file.suffix == ".zst"):
                yield _Limited(_zstandard(raw), path, size)
            else:
                yield raw
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: check the path") from error
    except (OSError, EOFError, zlib.error, ValueError, RuntimeError) as error:  # zero bytes in a path, unknown ~users
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path!r} cannot be read ({reason}): check the file and its path") from error


def _zstandard(raw: Readable) -> Readable:
    import pyarrow  # here, because only this should cost its start-up time

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, "r"), "zstd")


class _Limited:
    """The bytes of a compressed stream, until they are more than text of its size would have."""

    def __init__(self, stream: Readable, path: str, size: int):
        self._stream, self._path = stream, path
        self._limit = self._left = max(SMALLEST_LIMIT, EXPANSION * size)

    def read(self, size: int, /) -> bytes:
        piece = self._stream.read(size)
        self._left -= len(piece)
        if self._left < 0:
            raise UserError(
                f"{self._path} holds over {self._limit:,} bytes once decompressed, more than text of its size would: "
                "decompress it, if they are what you expect"
            )
        return piece


TOGETHER = 4096
"""Characters of lines that are encoded as one text: each text costs the library as much as a dozen tokens."""


def joined(lines: Iterable[str]) -> list[str]:
    """Lines joined to blocks of `TOGETHER` characters or a little more; what ends with no line feed ends its block."""
    blocks, block, size = [], [], 0
    for line in lines:
        block.append(line)
        size += len(line)
        if size >= TOGETHER or not line.endswith("\n"):
            blocks.append("".join(block))
            block, size = [], 0
    return [*blocks, "".join(block)] if block else blocks
