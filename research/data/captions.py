"""Images with captions: a table of file names and texts, or COCO's JSON, beside a folder or an archive of images.

Or tar files of both.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from research.data import archives
from research.data.image_files import decode_image, shown
from research.data.plain_text import check_text
from research.data.shards import CaptionedShards, are_shards, captions, read_shards
from research.data.source import Example
from research.data.split_files import SplitFiles
from research.data.table import check_column, rows_of
from research.errors import UserError
from research.files import fits, read_json
from research.ranges import MOVED, Pixels

KEYS = {"image": "image", "caption": "caption"}


@dataclass(frozen=True)
class Captions(SplitFiles):
    """{"image": uint8 [height, width, channels], "caption": str, "name": str} of a table's rows, as `Table` reads it.

    Or of a `.json` file of captions in COCO's form (Chen et al. 2015), or of tar files as `research.data.shards` reads
    them: a folder of them, one, or a pattern such as `train-*.tar`, where keys.caption is that of `.json` files.

    An image with several captions has a row for each of them: they share its path, `name`, and `folds` deals them out
    together. keys: the columns of the image's file and of the caption. columns: names of all columns, where the first
    line does not say them. images: the folder or zip archive that the files' names start from; unless given, the
    folder that the table lies in, or `images` beside COCO's JSON. size: pixels per side to which images are resized,
    whatever their shape; None keeps them as they are. channels: 3 for colour, 1 for grey.
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
        if coco := path.lower().endswith(".json"):
            folder = self.images if self.images is not None else os.path.join(folder, "images")
            if self.columns is not None or self.keys != KEYS:
                raise UserError(f"{shown(path)} is COCO's JSON, which has no columns: leave data.columns and keys out")
        there = _files(folder)
        found: dict[str, list[str]] = {}
        lines = ((f"line {number}", row) for number, row in rows_of(path, self.columns))
        for number, row in _coco_rows(path) if coco else lines:
            name, caption = self._row(row, f"{number} of {shown(path)}")
            if name not in there:
                raise UserError(
                    f"{number} of {shown(path)} names the image {shown(name)!r}, which {shown(folder)} does not "
                    f"have: add it, correct the {number.split()[0]}, or set data.images to the folder that has it"
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

    def examples(self, split: str) -> "CaptionedFiles | CaptionedShards":
        path = self.path_of(split)
        if are_shards(path):
            if self.columns is not None or self.images is not None:
                raise UserError(
                    f"{shown(path)} are tar files of images and captions: leave data.images and columns out"
                )
            shards = read_shards(path, captions(self.keys["caption"]))
            if not len(shards):
                raise UserError(f"{shown(path)} has no images with captions: put N.txt or N.json beside N.jpg")
            return CaptionedShards(shards, self.numbers(split, len(shards)), self.size, self.channels)
        entries = tuple(
            (each["folder"], each["name"], caption) for each in super().examples(split) for caption in each["captions"]
        )
        return CaptionedFiles(entries, self.size, self.channels)

    def left_out(self, split: str) -> Sequence[str]:
        path = self.path_of(split)
        return read_shards(path, captions(self.keys["caption"])).left_out() if are_shards(path) else ()


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


def _coco_rows(path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows that a table would have, each with what it is called."""
    content = read_json(Path(path).expanduser())
    lists = [content.get(name) for name in ("images", "annotations")]
    if not all(fits(one, list[dict[str, Any]]) for one in lists):
        raise UserError(f"{shown(path)} has no lists 'images' and 'annotations': give captions in COCO's form")
    names = {image["id"]: image.get("file_name") for image in lists[0] if isinstance(image.get("id"), int | str)}
    for number, entry in enumerate(lists[1], 1):
        image = entry.get("image_id")
        if not isinstance(image, int | str) or image not in names:
            raise UserError(f"annotation {number} of {shown(path)} is of image {str(image)[:20]}, which is not listed")
        yield f"annotation {number}", {"image": names[image], "caption": entry.get("caption")}


@functools.lru_cache(maxsize=8)
def _files(path: str) -> frozenset[str]:
    return frozenset(archives.tree(path).files)
