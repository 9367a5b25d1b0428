"""Files of lines with random access, and two of them as sentence pairs: of any size, as only numbers are in memory."""

import functools
import hashlib
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from research.data.plain_text import Readable, decoded, opened
from research.data.source import Example, Streamed
from research.data.token_store import Origin, origin_of
from research.errors import UserError

BLOCK = 4096
"""Lines that are read at once."""


class Lines(Sequence[str]):
    r"""The lines of a UTF-8 file without their ends, "\n" or "\r\n"; the last one may lack its end.

    A compressed file is kept in memory, decompressed. Raises a UserError for one that is missing, empty or not text.
    """

    def __init__(self, path: str):
        self._path = path
        with opened(path) as stream:
            plain = isinstance(stream, io.BufferedReader)
            self._content = None if plain else bytearray()
            kept = _Kept(stream, self._content)
            ends, size = [], 0
            for text in decoded(kept, path):
                raw = np.frombuffer(text.encode(), np.uint8)
                ends.append(np.flatnonzero(raw == 10) + 1 + size)
                size += len(raw)
        start = kept.size - size  # of the byte-order mark
        ends = np.concatenate([[0], *ends]).astype(np.int64)
        if ends[-1] < size:
            ends = np.append(ends, size)
        self._ends = ends + start
        if not size:
            raise UserError(f"{path} is empty: give a file with text")

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:  # pyrefly: ignore[bad-override]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self.block(index, index + 1)[0]

    def block(self, start: int, stop: int) -> list[str]:
        """The lines from `start` up to `stop`, or to the last one, in one read."""
        stop = min(stop, len(self))
        first, after = int(self._ends[start]), int(self._ends[stop])
        if self._content is not None:
            content = bytes(self._content[first:after])
        else:
            with open(os.path.expanduser(self._path), "rb") as file:
                content = os.pread(file.fileno(), after - first, first)
        lines = content.decode("utf-8", "replace").split("\n")
        if len(lines) == stop - start + 1:
            lines.pop()
        if len(lines) != stop - start:
            raise UserError(f"{self._path} was changed while it was read: leave it alone and start again")
        return [line.removesuffix("\r") for line in lines]


class _Kept:
    """A stream that counts what is read of it, and keeps it where there is a place."""

    def __init__(self, stream: Readable, place: bytearray | None):
        self._stream, self._place, self.size = stream, place, 0

    def read(self, size: int, /) -> bytes:
        piece = self._stream.read(size)
        self.size += len(piece)
        if self._place is not None:
            self._place += piece
        return piece


class Pairs(Streamed):
    """{"source": line, "target": line} of two files in which line n of one translates line n of the other."""

    def __init__(self, source: str, target: str):
        self._files = (source, target)
        self._source, self._target = _lines(*_stamp(source)), _lines(*_stamp(target))
        if len(self._source) != len(self._target):
            raise UserError(
                f"{source} has {len(self._source)} lines and {target} has {len(self._target)}: give files of equal "
                "length"
            )

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:  # pyrefly: ignore[bad-override]
        return {"source": self._source[index], "target": self._target[index]}

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self), BLOCK):
            sides = (lines.block(start, start + BLOCK) for lines in (self._source, self._target))
            yield from ({"source": source, "target": target} for source, target in zip(*sides, strict=True))

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of the lines, whatever the files' names, compression and line ends."""
        return self._digest() if self.origin is None else self.origin.remembered("fingerprint", self._digest)

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for pairs in itertools.batched(self, BLOCK):
            digest.update("".join(f"{pair['source']}\n{pair['target']}\n" for pair in pairs).encode())
        return digest.hexdigest()

    @functools.cached_property
    def origin(self) -> Origin | None:
        """Where what is made of these pairs is kept; None for little text, of which it is made again each time."""
        return origin_of(self._files, {}, lambda: self.fingerprint)


def _stamp(path: str) -> tuple[str, int, int]:
    try:
        found = Path(path).expanduser().stat()
    except (OSError, ValueError, RuntimeError):  # `opened` says it
        return path, 0, 0
    return path, found.st_size, found.st_mtime_ns


@functools.lru_cache(maxsize=8)
def _lines(path: str, size: int, time: int) -> Lines:
    """The lines of a file as it is now, found once for all who ask."""
    return Lines(path)
