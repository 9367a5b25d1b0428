"""Text from outside, decoded and cut into lines in one way everywhere: files, plain or gzip, and standard input."""

import codecs
import gzip
import stat
import zlib
from pathlib import Path

from research.errors import UserError

GZIP_MARK = b"\x1f\x8b"
SMALLEST_LIMIT, EXPANSION = 2**28, 50
"""Bytes that a gzip file may hold, and how many times its own: text shrinks to a third, a bomb to a thousandth."""

_OTHERS = {  # the longer marks first: UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def decode(content: bytes | bytearray, name: str) -> str:
    """The text of UTF-8 bytes, without the byte-order mark that may stand at their start.

    Raises a UserError that begins with `name` for bytes of another encoding and for NUL bytes, which no text has.
    """
    for mark, encoding in _OTHERS.items():
        if content.startswith(mark):
            raise UserError(f"{name} is {encoding}, as its byte-order mark says: convert it to UTF-8")
    start = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
    nul = content.find(b"\0")
    if nul >= 0:
        raise UserError(
            f"{name} has a NUL byte at line {_line(content, nul)} (offset {nul}), as UTF-16 and files that are not "
            "text have: convert it to UTF-8 text"
        )
    try:
        return content[start:].decode("utf-8")
    except UnicodeDecodeError as error:
        offset = start + error.start
        raise UserError(
            f"{name} is not UTF-8 at line {_line(content, offset)} (byte 0x{content[offset]:02x} at offset {offset}): "
            "convert it to UTF-8"
        ) from error


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


def read_text(path: str) -> str:
    """The text of a file, plain or gzip, whatever its name.

    Raises a UserError for one that is missing, not a regular file, unreadable, empty or not text (see `decode`).
    """
    try:
        file = Path(path).expanduser()
        if not stat.S_ISREG(file.stat().st_mode):
            raise UserError(
                f"{path} cannot be read, as it is not a regular file: give a file, which is read repeatedly"
            )
        content = file.read_bytes()
        if content.startswith(GZIP_MARK) or (content and file.suffix == ".gz"):
            content = _decompressed(file, path, max(SMALLEST_LIMIT, EXPANSION * len(content)))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: check the path") from error
    except (OSError, EOFError, zlib.error, ValueError, RuntimeError) as error:  # zero bytes in a path, unknown ~users
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path!r} cannot be read ({reason}): check the file and its path") from error
    text = decode(content, path)
    if not text:
        raise UserError(f"{path} is empty: give a file with text")
    return text


def _decompressed(file: Path, path: str, limit: int) -> bytearray:
    """What a gzip file holds, read in pieces: of one that holds more than `limit` bytes, no more than that."""
    content = bytearray()
    with gzip.open(file) as stream:
        while piece := stream.read(2**20):
            content += piece
            if len(content) > limit:
                raise UserError(
                    f"{path} holds over {limit:,} bytes once decompressed, more than text of its size would: "
                    "decompress it, if they are what you expect"
                )
    return content


def _line(content: bytes | bytearray, offset: int) -> int:
    return content.count(b"\n", 0, offset) + 1
