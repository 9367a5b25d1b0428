"""Images with a text each, such as a caption or a label, that lie many to a file: what tar and Parquet files share."""

import functools
import glob
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from research.data.image_files import LARGEST, shown
from research.data.token_store import Arrays, digest
from research.errors import UserError


def files_like(path: str, suffix: str) -> list[str]:
    """The files with a suffix that a path means, in the order of their names: a folder of them, one, or a pattern."""
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        found = [entry.path for entry in os.scandir(path) if entry.name.lower().endswith(suffix)]
    else:
        found = [path] if os.path.exists(path) else glob.glob(path)
    if not found:
        raise UserError(f"{shown(path)} has no {suffix} files: give a folder of them, one, or a pattern with *")
    for file in found:
        if not stat.S_ISREG(os.stat(file).st_mode):
            raise UserError(f"{shown(file)} is not a file: remove it, or give a pattern that leaves it out")
    return sorted(found)


def fingerprint(files: Sequence[str]) -> str:
    """Names, sizes and times: of files with other ones everything is made anew."""
    stats = [os.stat(file) for file in files]
    return digest([[os.path.basename(f), s.st_size, s.st_mtime_ns] for f, s in zip(files, stats, strict=True)])


@dataclass(frozen=True)
class Records:
    """Images by number, with a name and a note each: a caption or a label.

    arrays: `shard`, `size`, `length`, `text` and `left`, as `research.data.shards` describes them. left: of what `left`
    has the numbers; they are of one file after the other, or of those that `file` names.
    """

    files: tuple[str, ...]
    arrays: Arrays
    left: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.arrays["size"])

    def __getstate__(self) -> dict[str, Any]:
        """Without what is computed of the arrays, which are mapped from files in every process."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        """Where the name and the note of each image end in the text."""
        return np.cumsum(self.arrays["length"], dtype=np.int64)

    def _text(self, place: int) -> str:
        start = self._ends[place - 1] if place else 0
        return self.arrays["text"][start : self._ends[place]].tobytes().decode(errors="replace")

    def note(self, number: int) -> str:
        """The caption or the label of an image."""
        return self._text(2 * number + 1)

    def notes(self) -> list[bytes]:
        """Those of all images, UTF-8."""
        text, ends = self.arrays["text"].tobytes(), self._ends.tolist()
        return [text[start:end] for start, end in zip(ends[::2], ends[1::2], strict=True)]

    def name(self, number: int) -> str:
        """The path of an image's file, and its name therein."""
        return os.path.join(self.files[self.arrays["shard"][number]], self._text(2 * number))

    def content(self, number: int) -> bytes:
        """The image's file. Raises UserError where what it is read from is not what it was."""
        raise TypeError(f"{type(self).__name__} has no images")

    def left_out(self) -> list[str]:
        """What is not used, and how much of it."""
        counts = self.arrays["left"].reshape(-1, len(self.left))
        files = self.arrays.get("file", range(len(counts)))
        found = [(kind, counts[:, place]) for place, kind in enumerate(self.left) if counts[:, place].any()]
        return [
            f"{count.sum():,} {kind} are left out, such as in {shown(self.files[files[int(count.argmax())]])}"
            for kind, count in found
        ]


def are_sound(arrays: Arrays, num_files: int) -> bool:
    """Whether what `Records` reads of arrays that were kept is within them."""
    count, signed = len(arrays["size"]), [arrays[name] for name in ("shard", "size", "length", "left")]
    if len(arrays["shard"]) != count or len(arrays["length"]) != 2 * count:
        return False
    if min((array.min() for array in signed if len(array)), default=0) < 0:
        return False
    if arrays["length"].sum() != len(arrays["text"]):
        return False
    return not count or bool(arrays["shard"].max() < num_files and arrays["size"].max() <= LARGEST)
