"""Images and labels in Parquet files, as the `datasets` library writes them.

No row of such a file can be read by itself. So the images' files are copied once, as they are, into one flat file that
is kept and mapped into memory as the tokens of large texts are (`token_store`), with where each begins.
"""

import functools
import json
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from research.data.image_files import LARGEST, short, shown, too_large
from research.data.parquet import most_bytes, opened_table
from research.data.plain_text import check_text
from research.data.records import Records, are_sound, files_like, fingerprint
from research.data.token_store import Arrays, arrays_of, origin_of
from research.errors import UserError
from research.files import fits

DTYPES = {
    "content": np.dtype(np.uint8),  # the images' files, one behind the other
    "size": np.dtype(np.int64),
    "shard": np.dtype(np.int32),
    "length": np.dtype(np.int32),  # of each image: the bytes of its row's name, and of its label
    "text": np.dtype(np.uint8),
    "left": np.dtype(np.int64),  # of each chunk of rows: how many of LEFT
    "file": np.dtype(np.int32),  # and its file's number
    "names": np.dtype(np.uint8),  # of the classes in their order: a list in JSON, empty where the files do not say it
}
LEFT = ("images without a label", "rows without an image")
CHUNK = 2**25
"""Bytes of rows that are written at once."""
ROWS, BATCH = 256, 2**28
"""Rows that are unpacked at once, and bytes which these may take: a value stands once for all rows that have it."""


@dataclass(frozen=True)
class Table(Records):
    """The images of Parquet files with a label, by number."""

    @functools.cached_property
    def _places(self) -> np.ndarray:
        """Where each image ends."""
        return np.cumsum(self.arrays["size"], dtype=np.int64)

    def content(self, number: int) -> bytes:
        end = int(self._places[number])
        return self.arrays["content"][end - int(self.arrays["size"][number]) : end].tobytes()

    @property
    def names(self) -> list[str]:
        """Of the classes, in their order; none where the files do not say it."""
        return _names_of(self.arrays)


@functools.lru_cache(maxsize=8)
def read_image_table(path: str, image: str, label: str) -> Table:
    """The images of the Parquet files that a path means; image, label: the columns' names.

    Raises UserError for a file that is damaged or holds more than its size lets expect, and for columns that are
    missing or of another kind.
    """
    files = files_like(path, ".parquet")

    def sound(arrays: Arrays) -> bool:
        if not are_sound(arrays, len(files)) or arrays["size"].sum() != len(arrays["content"]):
            return False
        owners = arrays["file"]
        if len(arrays["left"]) != len(LEFT) * len(owners) or not all(0 <= owner < len(files) for owner in owners):
            return False
        try:
            return fits(_names_of(arrays), list[str])
        except ValueError:
            return False

    origin = origin_of(files, {"image": image, "label": label}, lambda: fingerprint(files), "images")
    chunks = functools.partial(_chunks, files, image, label)
    arrays = arrays_of(chunks, _encoded, DTYPES, origin, "image_table", sound)
    return Table(tuple(files), arrays, LEFT)


def _names_of(arrays: Arrays) -> list[str]:
    return json.loads(arrays["names"].tobytes() or b"[]")


@dataclass(frozen=True)
class _Chunk:
    """Some rows of a file: batches with the columns image and label. names: of the classes, with the first chunk."""

    number: int
    file: str
    row: int
    batches: Sequence[Any]
    names: Sequence[str]
    label: str
    first: bool


def _chunks(files: Sequence[str], image: str, label: str) -> Iterator[_Chunk]:
    """The rows of all files; at least one chunk a file."""
    common: list[str] = []
    for number, file in enumerate(files):
        with opened_table(file) as table:
            columns, names = _columns(table, file, image, label), _class_names(table, file, label)
            common = names if number == 0 else common
            if names != common:
                raise UserError(
                    f"{shown(file)} has other class names than {shown(files[0])}: give them in a path of their own"
                )
            row, size, batches, left = 0, 0, [], most_bytes(file)
            for batch in table.iter_batches(_rows_at_once(table), columns=columns, use_threads=False):
                left -= batch.nbytes
                if left < 0:
                    raise UserError(f"{shown(file)} holds more than {most_bytes(file):,} bytes of images: pack it anew")
                size, batches = size + batch.nbytes, [*batches, batch.select([image, label])]
                if size >= CHUNK:
                    yield _Chunk(number, file, row, batches, names, label, number == row == 0)
                    row, size, batches = row + sum(map(len, batches)), 0, []
            if batches or not row:
                yield _Chunk(number, file, row, batches, names, label, number == row == 0)


def _columns(table: Any, file: str, image: str, label: str) -> list[str]:
    """What is read of a file, as Parquet names it. Raises UserError where it is not there or of another kind."""
    from pyarrow import types

    def is_binary(kind: Any) -> bool:
        return types.is_binary(kind) or types.is_large_binary(kind)

    schema = table.schema_arrow
    for key, name in (("image", image), ("label", label)):
        if schema.names.count(name) != 1:
            names = ", ".join(map(repr, schema.names[:8]))
            raise UserError(
                f"{shown(file)} has no column {name!r} (it has {shown(names)}): set data.keys.{key} to one of them"
            )
    kind = schema.field(image).type
    within = types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not is_binary(kind.field("bytes").type if within else kind):
        raise UserError(
            f"{image!r} of {shown(file)} is {shown(str(kind))[:60]} and not the bytes of images: "
            "set data.keys.image to a column that is"
        )
    told = schema.field(label).type
    told = told.value_type if types.is_dictionary(told) else told
    if not (types.is_integer(told) or types.is_string(told) or types.is_large_string(told)):
        raise UserError(
            f"{label!r} of {shown(file)} is {shown(str(told))[:60]} and neither numbers nor texts: "
            "set data.keys.label to a column that is"
        )
    return [f"{image}.bytes" if within else image, label]


def _class_names(table: Any, file: str, label: str) -> list[str]:
    """What the metadata of the `datasets` library say of a column; none without them."""
    content = (table.schema_arrow.metadata or {}).get(b"huggingface")
    if content is None:
        return []
    try:
        names: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{shown(file)} has metadata 'huggingface' that are not JSON ({short(error)}): write it anew"
        ) from error
    for key in ("info", "features", label, "names"):
        names = names.get(key) if isinstance(names, dict) else None
    if names is None:
        return []
    if not fits(names, list[str]):
        raise UserError(f"the class names of {label!r} in {shown(file)} are not a list of texts: write it anew")
    for name in names:
        check_text(name, f"a class name of {shown(file)}")
    names = [_normal(name) for name in names]
    if len({*names} - {""}) < len(names):
        raise UserError(f"{shown(file)} has class names that are empty or equal: rename them")
    return names


def _rows_at_once(table: Any) -> int:
    """Few enough that they fit in memory even where all of them are the largest value that there can be."""
    # Of groups alone: the library ends the process where the numbers of a column are damaged.
    groups = (table.metadata.row_group(number) for number in range(table.num_row_groups))
    return min(ROWS, max(1, BATCH // max((1, *(group.total_byte_size for group in groups)))))


def _encoded(chunk: _Chunk) -> tuple[Arrays, int]:
    """The arrays of a chunk, and its bytes."""
    contents, texts, counts, row = [], [], [0, 0], chunk.row
    for batch in chunk.batches:
        images, labels = batch.columns
        images = images.field("bytes").to_pylist() if images.type.num_fields else images.to_pylist()
        valid = batch.columns[0].is_valid().to_pylist()
        for there, content, value in zip(valid, images, labels.to_pylist(), strict=True):
            label = _label(value, chunk, row)
            if not there or content is None:
                counts[1] += 1
            elif not label:
                counts[0] += 1
            elif len(content) > LARGEST:
                raise too_large(os.path.join(chunk.file, f"row {row}"), len(content))
            else:
                contents.append(content)
                texts += [f"row {row}".encode(), label.encode()]
            row += 1
    found = {
        "content": np.frombuffer(b"".join(contents), np.uint8),
        "size": list(map(len, contents)),
        "shard": [chunk.number] * len(contents),
        "length": list(map(len, texts)),
        "text": np.frombuffer(b"".join(texts), np.uint8),
        "left": counts,
        "file": [chunk.number],
        "names": np.frombuffer(json.dumps(chunk.names).encode() if chunk.first and chunk.names else b"", np.uint8),
    }
    arrays = {name: np.asarray(found[name], dtype) for name, dtype in DTYPES.items()}
    return arrays, sum(map(len, contents))


def _label(value: str | int | None, chunk: _Chunk, row: int) -> str:
    """The name of a class; "" where there is none, as -1 says too."""
    if isinstance(value, str):
        check_text(value, f"the label in row {row} of {shown(chunk.file)}")
        return _normal(value)
    if value is None or value < 0:
        return ""
    if not chunk.names:
        return str(value)
    if value >= len(chunk.names):
        raise UserError(
            f"row {row} of {shown(chunk.file)} has the label {value}, and there are {len(chunk.names)} class names: "
            "correct the label, or write the file anew with all names"
        )
    return chunk.names[value]


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip())
