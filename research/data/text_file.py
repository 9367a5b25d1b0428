"""Text from UTF-8 files, plain or gzip (a name that ends in .gz): one running text, or sentence pairs line by line."""

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from research.data.source import Example, Source, check_split
from research.errors import UserError
from research.ranges import AFTERWARDS, Rate


@dataclass(frozen=True)
class TextFile(Source):
    """One text, cut into contiguous ranges of characters: training, then validation, then test.

    The fractions are shares of the characters; a split whose fraction is 0 does not exist. The default is nanoGPT's
    (the last 10 % is validation).
    """

    path: str
    validation_fraction: Rate = 0.1
    test_fraction: Rate = 0.0

    def __post_init__(self):
        fractions = (self.validation_fraction, self.test_fraction)
        if sum(fractions) >= 1:
            raise UserError(
                f"validation_fraction {fractions[0]} and test_fraction {fractions[1]} leave nothing to train on: "
                "use fractions from 0 with a sum below 1"
            )

    @property
    def splits(self) -> tuple[str, ...]:
        held_out = {"validation": self.validation_fraction, "test": self.test_fraction}
        return ("train", *(split for split, fraction in held_out.items() if fraction))

    def examples(self, split: str) -> Sequence[Example]:
        """One example {"text": ...}; a UserError names a file that is missing, empty or not UTF-8."""
        check_split(split, self.splits)
        text = read_text(self.path)
        validation = int(len(text) * (1 - self.validation_fraction - self.test_fraction))
        test = len(text) if not self.test_fraction else int(len(text) * (1 - self.test_fraction))
        ranges = {"train": slice(0, validation), "validation": slice(validation, test), "test": slice(test, None)}
        if not text[ranges[split]]:
            raise UserError(f"{self.path} is too short for a {split} split: set {split}_fraction to 0 or add text")
        return [{"text": text[ranges[split]]}]


@dataclass(frozen=True)
class ParallelText(Source):
    """Sentence pairs from two files in which line n of one translates line n of the other."""

    train_source: str
    train_target: str
    validation_source: str | None = None
    validation_target: str | None = None
    test_source: Annotated[str | None, AFTERWARDS] = None
    test_target: Annotated[str | None, AFTERWARDS] = None

    def __post_init__(self):
        for split in ("train", "validation", "test"):
            source, target = self._paths(split)
            if bool(source) != bool(target):
                missing, given = ("target", "source") if source else ("source", "target")
                raise UserError(f"{split}_{missing} is missing: name the file parallel to {split}_{given}")

    def _paths(self, split: str) -> tuple[str | None, str | None]:
        return getattr(self, f"{split}_source"), getattr(self, f"{split}_target")

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in ("train", "validation", "test") if self._paths(split)[0])

    def examples(self, split: str) -> Sequence[Example]:
        """{"source": line, "target": line}; a UserError if a file is bad or the two differ in their number of lines."""
        check_split(split, self.splits)
        paths = self._paths(split)
        sources, targets = (_lines(path) for path in paths)
        if len(sources) != len(targets):
            raise UserError(
                f"{paths[0]} has {len(sources)} lines and {paths[1]} has {len(targets)}: give files of equal length"
            )
        return [{"source": source, "target": target} for source, target in zip(sources, targets, strict=True)]


def read_text(path: str) -> str:
    """The whole file as it is; a UserError if it is missing, unreadable, empty or not UTF-8."""
    try:
        content = Path(path).expanduser().read_bytes()
        if path.endswith(".gz"):
            content = gzip.decompress(content)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: check the path") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}): check the file") from error
    if not content:
        raise UserError(f"{path} is empty: give a file with text")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise UserError(
            f"{path} is not UTF-8 at line {line} (byte 0x{byte:02x} at offset {error.start}): convert it to UTF-8"
        ) from error


def _lines(path: str) -> list[str]:
    # Not splitlines(): it also cuts at characters such as U+2028 that occur within sentences.
    lines = read_text(path).split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
