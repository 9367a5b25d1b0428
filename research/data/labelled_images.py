"""Labelled images by index, of whatever files, and those of tar and Parquet files by their classes."""

import functools
import glob
import hashlib
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from research.data.archives import hidden
from research.data.image_files import decode_image, image_size, short, shown
from research.data.image_table import Table, read_image_table
from research.data.records import Records
from research.data.shards import COMPRESSED, labels, read_shards
from research.data.source import Example
from research.errors import UserError

KEYS = {"image": "image", "label": "label"}
KINDS = (".tar", ".parquet")
KEPT = (".index", ".images")
"""Ends of the names of folders that are made beside such files."""
READ_FOR_FINGERPRINT = 64
"""Files whose content a fingerprint has; of the others, it has names and sizes."""


@dataclass(frozen=True)
class LabelledFiles(Sequence[Example]):
    """{"image", "label"} by index, decoded when they are asked for; `file` and `label` say of what.

    size, channels: as `ImageFolder` has them.
    """

    size: int | None
    channels: int

    def file(self, index: int) -> tuple[str, bytes]:
        """The path of an image's file, for messages, and what it holds."""
        raise TypeError(f"{type(self).__name__} has no files")

    def label(self, index: int) -> int:
        """The number of an image's class."""
        raise TypeError(f"{type(self).__name__} has no labels")

    def __getitem__(self, index: int) -> Example:  # pyrefly: ignore[bad-override]
        path, content = self.file(index)
        size = None if self.size is None else (self.size, self.size)
        return {"image": decode_image(content, path, size, self.channels), "label": self.label(index)}

    def image_size(self, index: int) -> tuple[int, int]:
        """Height and width of an image, which is not decoded for that."""
        if self.size is not None:
            return self.size, self.size
        path, content = self.file(index)
        return image_size(content, path)


@dataclass(frozen=True)
class LabelledRecords(LabelledFiles):
    """Some of the images of tar or Parquet files. Worker processes map what is kept of them."""

    records: Records
    numbers: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def file(self, index: int) -> tuple[str, bytes]:
        number = int(self.numbers[index])
        return self.records.name(number), self.records.content(number)

    def fingerprint(self) -> str:
        """A digest of names, sizes and labels, and of the content of some images."""
        digest = hashlib.sha256(self.records.arrays["text"])
        for array in (self.records.arrays["size"], self.numbers, self.labels):
            digest.update(np.ascontiguousarray(array))
        places = np.linspace(0, len(self) - 1, READ_FOR_FINGERPRINT).astype(int) if len(self) else ()
        for place in np.unique(places):
            digest.update(hashlib.sha256(self.file(int(place))[1]).digest())
        return digest.hexdigest()


def kind_of_records(path: str) -> str | None:
    """ ".tar" or ".parquet" where a path means such files, by its end or by what a folder holds beside no folders.

    None for anything else. Raises UserError for a folder of both.
    """
    if path.lower().endswith(COMPRESSED):
        return ".tar"
    if os.path.isdir(whole := os.path.expanduser(path)):
        return _kind_in_folder(path, whole)
    kind = next((kind for kind in KINDS if path.lower().endswith(kind)), None)
    if kind is None and glob.has_magic(path) and not os.path.lexists(whole):
        raise UserError(f"{shown(path)} is a pattern that does not end with .tar or .parquet: let it end with one")
    return kind


def _kind_in_folder(path: str, folder: str) -> str | None:
    kinds = set()
    try:
        for entry in os.scandir(folder):
            suffix = os.path.splitext(entry.name)[1].lower()
            if hidden(entry.name):
                continue
            if entry.is_dir():
                if suffix not in KEPT:
                    return None
            elif suffix in KINDS:
                kinds.add(suffix)
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read ({short(error)}): allow it") from error
    if len(kinds) > 1:
        raise UserError(f"{shown(path)} has .tar and .parquet files: give a pattern of one kind, such as *.tar")
    return kinds.pop() if kinds else None


@functools.lru_cache(maxsize=8)
def find_records(path: str, kind: str, image: str, label: str) -> tuple[Mapping[str, np.ndarray], Records]:
    """The numbers of the images of each class, and the images of the tar or Parquet files that a path means.

    Classes are in the order that the files give, otherwise sorted, by value where all are whole numbers. image, label:
    as `ImageFolder.keys`. Raises UserError where there are none.
    """
    records = read_image_table(path, image, label) if kind == ".parquet" else read_shards(path, labels(label))
    if not len(records):
        beside = "" if kind == ".parquet" else ": put N.cls or N.json beside N.jpg"
        aside = "; ".join(records.left_out())
        raise UserError(f"{shown(path)} has no images with labels{f' ({aside})' if aside else ''}{beside}")
    codes: dict[bytes, int] = {}
    own = np.array([codes.setdefault(note, len(codes)) for note in records.notes()], np.int64)
    found = [unicodedata.normalize("NFC", note.decode(errors="replace")) for note in codes]
    names = records.names if isinstance(records, Table) else []
    if not names:
        numeric = all(name.isascii() and name.isdecimal() and len(name) < 20 for name in found)
        names = sorted({*found}, key=lambda name: (int(name) if numeric else 0, name))
    place = {name: number for number, name in enumerate(names)}
    own = np.array([place.get(name, len(names)) for name in found])[own]
    if own.max() >= len(names):
        raise UserError(f"what was kept of {shown(path)} has other classes than its names: remove the folder .images")
    order = np.argsort(own, kind="stable")
    ends = np.cumsum(np.bincount(own, minlength=len(names)))
    return dict(zip(names, np.split(order, ends[:-1]), strict=True)), records
