"""Images with captions: a table of file names and texts beside a folder or a zip archive of images."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from research.data import archives
from research.data.image_files import decode_image, shown
from research.data.plain_text import check_text
from research.data.source import Example
from research.data.split_files import SplitFiles
from research.data.table import check_column, rows_of
from research.errors import UserError
from research.ranges import MOVED, Pixels

KEYS = {"image": "image", "caption": "caption"}


@dataclass(frozen=True)
class Captions(SplitFiles):
    """{"image": uint8 [height, width, channels], "caption": str, "name": str} of a table's rows, as `Table` reads it.

    An image with several captions has a row for each of them: they share its path, `name`, and `folds` deals them out
    together. keys: the columns of the image's file and of the caption. columns: names of all columns, where the first
    line does not say them. images: the folder or zip archive that the files' names start from; unless given, the
    folder that the table lies in. size: pixels per side to which images are resized, whatever their shape; None keeps
    them as they are. channels: 3 for colour, 1 for grey.
    """

    images: Annotated[str | None, MOVED] = None
    keys: dict[str, str] = dataclasses.field(default_factory=lambda: dict(KEYS))
    columns: tuple[str, ...] | None = None
    size: Pixels | None = None
    channels: Literal[1, 3] = 3

    def __post_init__(self):
        if self.keys.keys() != KEYS.keys():
            raise UserError(f"data.keys has {', '.join(self.keys) or 'nothing'}: use image and caption")

    @property
    def image_shape(self) -> tuple[int | None, int | None, int]:
        return self.size, self.size, self.channels

    def paths(self) -> tuple[str, ...]:
        return (*super().paths(), *([] if self.images is None else [self.images]))

    def read(self, path: str) -> list[Example]:
        """For each image, in the order in which they come first: its folder or archive, name and captions."""
        folder = self.images if self.images is not None else os.path.dirname(path) or "."
        there = _files(folder)
        found: dict[str, list[str]] = {}
        for number, row in rows_of(path, self.columns):
            name, caption = self._row(row, f"line {number} of {shown(path)}")
            if name not in there:
                raise UserError(
                    f"line {number} of {shown(path)} names the image {shown(name)!r}, which {shown(folder)} does not "
                    "have: add it, correct the line, or set data.images to the folder that has it"
                )
            found.setdefault(name, []).append(caption)
        return [{"folder": folder, "name": name, "captions": captions} for name, captions in found.items()]

    def _row(self, row: Mapping[str, Any], place: str) -> tuple[str, str]:
        """The image's name as `archives` has it, and the caption."""
        for key, column in self.keys.items():
            check_column(row, key, column, place)
            if not isinstance(row[column], str):
                raise UserError(f"{column!r} in {place} is not a text: set data.keys.{key} to one")
            check_text(row[column], f"{column!r} in {place}")
        caption = row[self.keys["caption"]]
        if not caption.strip():
            raise UserError(f"the caption in {place} is empty: write one, or remove the line")
        return archives.name_within(row[self.keys["image"]], place), caption

    def examples(self, split: str) -> "CaptionedFiles":
        entries = tuple(
            (each["folder"], each["name"], caption) for each in super().examples(split) for caption in each["captions"]
        )
        return CaptionedFiles(entries, self.size, self.channels)


@dataclass(frozen=True)
class CaptionedFiles(Sequence[Example]):
    """Images with captions by index, decoded when they are asked for."""

    entries: tuple[tuple[str, str, str], ...]  # folder or archive, name within it, caption
    size: int | None
    channels: int

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def captions(self) -> list[str]:
        """The captions, for which no image is read."""
        return [caption for _, _, caption in self.entries]

    def __getitem__(self, index: int) -> Example:  # pyrefly: ignore[bad-override]
        folder, name, caption = self.entries[index]
        size = None if self.size is None else (self.size, self.size)
        content = archives.read(folder, name)
        image = decode_image(content, os.path.join(folder, name), size, self.channels)
        return {"image": image, "caption": caption, "name": os.path.join(folder, name)}


@functools.lru_cache(maxsize=8)
def _files(path: str) -> frozenset[str]:
    return frozenset(archives.tree(path).files)
