"""What a source of examples is: a frozen dataclass whose fields are its config keys.

Examples are dicts: {"source": str, "target": str} for parallel text, {"text": str} for text, and
{"image": uint8 [height, width, channels], "label": int} for images, whose source also has `class_names`.
"""

import hashlib
import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from research.errors import UserError

Example = dict[str, Any]

SAMPLED = 256
"""Examples of a split that a fingerprint reads where the source has no better one."""


class Source:
    """Examples by split, with random access: a split has a length and any of its examples can be read by index."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The names that `examples` accepts."""
        raise TypeError(f"{type(self).__name__} has no splits")

    def examples(self, split: str) -> Sequence[Example]:
        """The examples of a split, read when indexed where they are big; a UserError names an unknown split."""
        raise TypeError(f"{type(self).__name__} has no examples")

    @property
    def image_shape(self) -> tuple[int | None, int | None, int]:
        """Height, width and channels of the images, None where they vary; here those of the first one."""
        height, width, channels = self.examples("train")[0]["image"].shape
        return height, width, channels

    def fingerprint(self, split: str) -> str:
        """A hexadecimal digest that tells other data from these, wherever they lie; here of evenly spaced examples."""
        examples = self.examples(split)
        digest = hashlib.sha256(str(len(examples)).encode())
        for index in sorted({int(place) for place in np.linspace(0, len(examples) - 1, SAMPLED)} if examples else ()):
            for name, value in sorted(examples[index].items()):
                digest.update(name.encode())
                digest.update(value.tobytes() if isinstance(value, np.ndarray) else str(value).encode())
        return digest.hexdigest()

    def paths(self) -> tuple[str, ...]:
        """The files and folders that are read, as the config names them; none where everything is generated."""
        return ()

    def left_out(self, split: str) -> Sequence[str]:
        """Sentences about what lies among the data and is not used, each with how much of it and a few names."""
        return ()


def split_of(text: str) -> str:
    """The split that a generated text can be in, by its digest: of ten 8 are "train", one "validation", one "test"."""
    return (*["train"] * 8, "validation", "test")[zlib.crc32(text.encode()) % 10]


@dataclass(frozen=True)
class Drawn(Sequence[Example]):
    """`size` examples that `draw` makes of their indices when they are asked for."""

    size: int
    draw: Callable[[int], Example]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:  # pyrefly: ignore[bad-override]
        if not 0 <= index < self.size:
            raise IndexError(index)
        return self.draw(index)


class Streamed(Sequence[Example]):
    """Examples of which all are read where a task makes its rows: nothing is left to be found in them later."""


@dataclass(frozen=True, eq=False)
class Mixed(Sequence[Example]):
    """The examples of several sources, one after the other; `research.data.mixture` makes rows of them.

    weights: how much of training comes from each part; None where everything is read once.
    """

    parts: tuple[Sequence[Example], ...]
    weights: tuple[float, ...] | None

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: int) -> Example:  # pyrefly: ignore[bad-override]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        for part in self.parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)

    def __iter__(self) -> Iterator[Example]:
        return itertools.chain.from_iterable(self.parts)


class Withheld:
    """Stands for the source of a run whose data are not read, since its stored config may name any file."""

    def __init__(self, folder: Path):
        self._folder = folder

    def __getattr__(self, name: str) -> Any:
        raise UserError(
            f"{self._folder} lacks what was made of its data, such as tokenizer.json or classes.json: run its training "
            "command again, which makes them"
        )


def check_split(split: str, splits: Sequence[str]) -> None:
    """Raises the UserError that names an unknown split and the ones to use."""
    if not splits:
        raise UserError(f"split {split!r} is unknown, as the data have none: name the data of the split train")
    if split not in splits:
        *others, last = splits
        choices = f"{', '.join(others)} or {last}" if others else last
        raise UserError(f"split {split!r} is unknown: use {choices}")
