"""Tables of labelled texts: CSV, TSV and JSON lines, whose columns have names."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research.data.plain_text import check_text, lines_of, read_text
from research.data.source import Example
from research.data.split_files import SplitFiles
from research.data.texts import json_lines, kind_of
from research.errors import UserError

KEYS = {"source": "text", "label": "label"}


@dataclass(frozen=True)
class Table(SplitFiles):
    """Examples {"source", "label"}, with "second" for pairs of texts, of the columns that `keys` names.

    A file's name says what it is: .jsonl has an object a line, .tsv fields between tabs, in which quotes mean nothing,
    and any other commas, where "a field, with a comma" stands in quotes and a quote in it twice. The first line of the
    last two names the columns unless `columns` does. unique: of rows that are equal in these columns the first stays.
    """

    keys: dict[str, str] = dataclasses.field(default_factory=lambda: dict(KEYS))
    columns: tuple[str, ...] | None = None
    unique: bool = False

    def read(self, path: str) -> list[Example]:
        examples = [self._example(row, number, path) for number, row in rows_of(path, self.columns)]
        if not self.unique:
            return examples
        first: dict[str, Example] = {}
        for example in examples:
            first.setdefault(json.dumps(example), example)
        return list(first.values())

    def left_out(self, split: str) -> Sequence[str]:
        if not self.unique or split != "train":
            return ()
        rows = sum(1 for _ in rows_of(self.path, self.columns))
        repeated = rows - len(self._read(self.path))
        return [f"{repeated:,} rows of {self.path} are left out, as they repeat others"] if repeated else ()

    def _example(self, row: Mapping[str, Any], number: int, path: str) -> Example:
        example = {}
        for key, column in self.keys.items():
            check_column(row, key, column, f"line {number} of {path}")
            value = row[column]
            if key != "label" and not isinstance(value, str):
                raise UserError(f"{column!r} in line {number} of {path} is not a text: set data.keys.{key} to one")
            for text in value if isinstance(value, list) else [value]:
                check_text(str(text), f"{column!r} in line {number} of {path}")
            example[key] = value if isinstance(value, str | list) else json.dumps(value)
        return example


def rows_of(path: str, columns: Sequence[str] | None) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a table by their columns' names, each with its number among the lines; see `Table` for `columns`."""
    if kind_of(path) == "records":
        yield from _objects(path)
        return
    fields = _fields(read_text(path), path, ".tsv" in [suffix.lower() for suffix in Path(path).suffixes])
    names = columns
    if names is None:
        _, names = next(fields)
    for number, row in fields:
        if len(row) != len(names):
            raise UserError(
                f"line {number} of {path} has {len(row)} columns and not {len(names)} ({', '.join(names)}): "
                "correct the line, and quote fields that hold the separator"
            )
        yield number, dict(zip(names, row, strict=True))


def check_column(row: Mapping[str, Any], key: str, column: str, place: str) -> None:
    """Raises UserError where a row has no such column. key: of the field `keys` that names it."""
    if column not in row:
        names = ", ".join(map(str, row))
        raise UserError(
            f"{place} has no column {column!r} (it has {names}): set data.keys.{key} to one of them, or name them in "
            "data.columns where the file does not"
        )


def _fields(text: str, path: str, tabbed: bool) -> Iterator[tuple[int, list[str]]]:
    """The fields of each line that is not empty, with the number of the line that they end on."""
    if tabbed:
        yield from ((number, line.split("\t")) for number, line in enumerate(lines_of(text), 1) if line)
        return
    reader, number = csv.reader(io.StringIO(text, newline=""), strict=True), 0
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(
                f"the row that begins in line {number + 1} of {path} is not CSV ({error}): a quote in a field stands "
                "twice, in a field that stands in quotes"
            ) from error
        number = reader.line_num
        if row:
            yield number, row


def _objects(path: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, row in json_lines(path):
        if not isinstance(row, dict):
            raise UserError(f"line {number} of {path} is not a JSON object: give one with the columns by name")
        yield number, row
