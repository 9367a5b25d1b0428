"""Texts of files of any size, read as a stream: plain text, JSON lines and Parquet, compressed or not."""

import collections
import dataclasses
import functools
import glob
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from research.data.archives import hidden
from research.data.parquet import opened_table
from research.data.plain_text import check_text, cut, read_pieces
from research.data.source import Example, Mixed, Streamed
from research.data.token_store import Origin, origin_of
from research.errors import UserError

CHUNK = 2**21
"""Characters that are encoded at once."""

type Chunk = list[tuple[str, bool]]
"""Pieces of texts, each with whether its text ends with it."""

PLAIN, RECORDS, TABLES = (".txt", ".text"), (".jsonl", ".ndjson"), (".parquet",)
COMPRESSED = (".gz", ".zst")


@dataclasses.dataclass(frozen=True, eq=False)
class Texts(Streamed):
    """Examples {"text": ...}: a plain file is one text, a line of a .jsonl and a row of a .parquet is one each.

    files: as `files_of` gives. field: of records, the key of their text. start, end: the part of these texts that
    begins after this number of characters and ends before that: plain text is cut there, a record belongs to the part
    in which it begins.
    """

    files: tuple[str, ...]
    field: str = "text"
    start: int = 0
    end: int | None = None

    def stream(self) -> Iterator[tuple[str, bool]]:
        """Pieces of the texts, one after the other, each with whether its text ends with it."""
        place = 0
        for file in self.files:
            whole = kind_of(file) != "plain"
            pieces = ((text, True) for text in _records(file, self.field)) if whole else _with_last(read_pieces(file))
            for text, last in pieces:
                first, after = place, place + len(text)
                place = after
                if self.end is not None and first >= self.end:
                    return
                if whole:
                    if first >= self.start:
                        yield text, last
                elif after > self.start:
                    stop = len(text) if self.end is None else min(len(text), self.end - first)
                    yield text[max(0, self.start - first) : stop], last or after == self.end or stop < len(text)

    def __iter__(self) -> Iterator[Example]:
        parts: list[str] = []
        for text, last in self.stream():
            parts.append(text)
            if last:
                yield {"text": "".join(parts)}
                parts.clear()

    def __getitem__(self, index: int) -> Example:  # pyrefly: ignore[bad-override]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return next(itertools.islice(self, index % len(self), None))

    def __len__(self) -> int:
        return self._survey["texts"]

    @property
    def characters(self) -> int:
        """Of all texts together."""
        return self._survey["characters"]

    @property
    def fingerprint(self) -> str:
        """A digest of the texts, whatever the files' names and compression; of a single one, SHA-256 of its UTF-8."""
        return self._survey["sha256"]

    @functools.cached_property
    def _survey(self) -> dict[str, Any]:
        """What one reading of all texts tells, computed once for large ones."""
        return self._surveyed() if self.origin is None else self.origin.remembered("survey", self._surveyed)

    def _surveyed(self) -> dict[str, Any]:
        digest, texts, characters, ended = hashlib.sha256(), 0, 0, False
        for text, last in self.stream():
            digest.update(b"\0" * ended + text.encode())  # between two texts, none of which holds it
            texts, characters, ended = texts + last, characters + len(text), last
        return {"texts": texts, "characters": characters, "sha256": digest.hexdigest()}

    @functools.cached_property
    def origin(self) -> Origin | None:
        """Where what is made of these texts is kept; None for little text, of which it is made again each time."""
        part = {"field": self.field, "start": self.start, "end": self.end}
        return origin_of(self.files, part, lambda: self.fingerprint)


def stream_of(examples: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, bool]]:
    """The texts of examples as `Texts.stream` gives them."""
    if isinstance(examples, Mixed):
        return itertools.chain.from_iterable(map(stream_of, examples.parts))
    return examples.stream() if isinstance(examples, Texts) else ((example["text"], True) for example in examples)


def chunks_of_texts(examples: Sequence[Mapping[str, Any]]) -> Iterator[Chunk]:
    """The texts in chunks of CHUNK characters or a little more; the last one may be of any size if it is the only one.

    A chunk ends where a line, a text or a piece of it does.
    """
    before: Chunk = []
    chunk: Chunk = []
    size = 0
    for text, last in stream_of(examples):
        chunk.append((text, last))
        size += len(text)
        if size >= CHUNK:
            if before:
                yield before
            before, chunk, size = chunk, [], 0
    if before or chunk:
        yield before + chunk


def beginnings(examples: Sequence[Mapping[str, Any]], count: int, size: int) -> list[str]:
    """The first `size` characters of some texts, or of lines of the only one, evenly spaced."""
    if len(examples) > 1:
        return [example["text"][:size] for example in itertools.islice(examples, count)]
    total = examples.characters if isinstance(examples, Texts) else sum(len(text) for text, _ in stream_of(examples))
    wanted = collections.deque(total * part // count for part in range(1, count))
    found: list[str] = []
    place = 0
    for text, _ in stream_of(examples):
        starts = [0] if not place else []
        while wanted and wanted[0] < place + len(text):
            end = text.find("\n", max(0, wanted[0] - place))
            if end < 0:
                break
            starts.append(end + 1)
            wanted.popleft()
        found = [start + text[: size - len(start)] for start in found] + [
            text[start : start + size] for start in starts
        ]
        place += len(text)
    return found


def files_of(path: str) -> tuple[tuple[str, ...], list[str]]:
    """The text files that a path names: a file, all of a folder and its folders, or a pattern with * ? [ ].

    Sorted by name. Then those of a folder that are left out, since their names tell of no text. Raises UserError where
    there is none.
    """
    full = os.path.expanduser(path) if path.startswith("~") else path
    try:
        if os.path.isdir(full):
            found = sorted(str(file) for file in _below(Path(full)))
        elif not os.path.lexists(full) and glob.has_magic(full):
            found = sorted(name for name in glob.glob(full, recursive=True) if os.path.isfile(name))
            if not found:
                raise UserError(f"no file has a name like {path}: check the pattern")
            return tuple(found), []
        else:
            return (path,), []
    except (OSError, ValueError) as error:
        raise UserError(f"{path!r} cannot be read ({error}): check the path") from error
    texts = tuple(name for name in found if _suffix(name) in PLAIN + RECORDS + TABLES)
    if not texts:
        raise UserError(f"{path} holds no text: use files named {', '.join(PLAIN[:1] + RECORDS[:1] + TABLES)}")
    return texts, [name for name in found if name not in set(texts)]


def kind_of(file: str) -> str:
    """How the texts lie in a file, as its name says: "plain", "records" or "table"."""
    suffix = _suffix(file)
    return "records" if suffix in RECORDS else "table" if suffix in TABLES else "plain"


def _suffix(name: str) -> str:
    """The last suffix in lower case, except those of compression."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix not in COMPRESSED), "")


def _below(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not hidden(name) and not name.endswith(".tokens")]
        yield from (Path(root, name) for name in names if not hidden(name))


def _with_last(pieces: Iterator[str]) -> Iterator[tuple[str, bool]]:
    """The pieces of one text, and whether each is the last. Raises nothing of its own."""
    before = next(pieces, "")
    for piece in pieces:
        yield before, False
        before = piece
    if before:
        yield before, True


def _records(file: str, field: str) -> Iterator[str]:
    """The texts of a file of records; a UserError names the first that has none."""
    records = _rows(file, field) if kind_of(file) == "table" else (record for _, record in json_lines(file))
    for number, record in enumerate(records, 1):
        text = record.get(field) if isinstance(record, dict) else None
        if not isinstance(text, str):
            keys = ", ".join(map(repr, list(record)[:8])) if isinstance(record, dict) else type(record).__name__
            raise UserError(f"record {number} of {file} has no text {field!r} ({keys}): set data.field to its key")
        check_text(text, f"record {number} of {file}")
        yield text


def json_lines(file: str) -> Iterator[tuple[int, Any]]:
    """The values of a file of JSON lines, each with the number of its line; empty lines are left out."""
    lines = itertools.chain.from_iterable(map(cut, read_pieces(file)))
    for number, line in enumerate(lines, 1):
        if line.isspace():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"line {number} of {file} is not JSON ({str(error)[:100]}): correct the line") from error


def _rows(file: str, field: str) -> Iterator[Any]:
    with opened_table(file) as table:
        if field not in table.schema_arrow.names:
            names = ", ".join(map(repr, table.schema_arrow.names[:8]))
            raise UserError(f"{file} has no column {field!r} (it has {names}): set data.field to one of its names")
        for batch in table.iter_batches(batch_size=1024, columns=[field]):
            yield from ({field: text} for text in batch.column(0).to_pylist())
