"""Text from UTF-8 files: running text and documents, or sentence pairs line by line."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from research.data.image_files import shown
from research.data.lines import Pairs
from research.data.source import Source, check_split
from research.data.texts import Texts, files_of, kind_of
from research.errors import UserError
from research.ranges import AFTERWARDS, MOVED, Rate


@dataclass(frozen=True)
class TextFile(Source):
    """Texts of a file, of all files below a folder, or of those that a pattern such as "books/*.txt.gz" matches.

    A plain file is one text; each line of a .jsonl and each row of a .parquet is one, the value of its key `field`.
    Files may be compressed (.gz, .zst). Between two texts or more stands an end marker.

    The fractions are shares of all characters: the texts one after the other are training, then validation, then test.
    Plain text is cut at that character, a record belongs to the split that it begins in. A split whose fraction is 0
    does not exist. The default is nanoGPT's (the last 10 % is validation). Or splits have files of their own, which
    validation_path and test_path name; what is then left of `path` is training.
    """

    path: Annotated[str, MOVED]
    validation_fraction: Rate | None = None
    test_fraction: Rate = 0.0
    validation_path: Annotated[str | None, MOVED] = None
    test_path: Annotated[str | None, AFTERWARDS] = None
    field: str = "text"

    def __post_init__(self):
        if self.validation_path and self.validation_fraction:
            raise UserError("validation_path and validation_fraction both name a validation split: leave one out")
        if self.test_path and self.test_fraction:
            raise UserError("test_path and test_fraction both name a test split: leave one out")
        if sum(self._fractions) >= 1:
            raise UserError(
                f"validation_fraction {self._fractions[0]} and test_fraction {self._fractions[1]} leave nothing to "
                "train on: use fractions from 0 with a sum below 1"
            )

    @property
    def _fractions(self) -> tuple[float, float]:
        """Of `path` that are validation and test."""
        default = 0.0 if self.validation_path else 0.1
        return default if self.validation_fraction is None else self.validation_fraction, self.test_fraction

    def paths(self) -> tuple[str, ...]:
        return tuple(path for path in (self.path, self.validation_path, self.test_path) if path is not None)

    @property
    def splits(self) -> tuple[str, ...]:
        validation, test = self._fractions
        held_out = {"validation": self.validation_path or validation, "test": self.test_path or test}
        return ("train", *(split for split, there in held_out.items() if there))

    def examples(self, split: str) -> Texts:
        """{"text": ...}, read as a stream; a UserError names a file that cannot be read or that is too short."""
        check_split(split, self.splits)
        own = {"validation": self.validation_path, "test": self.test_path}.get(split)
        texts = Texts(files_of(own or self.path)[0], self.field)
        if self.field != "text" and all(
            kind_of(file) == "plain" for path in self.paths() for file in files_of(path)[0]
        ):
            raise UserError(f"data.field {self.field!r} is for .jsonl and .parquet files, of which there are none")
        if not texts.characters:
            raise UserError(f"{own or self.path} is empty: give a file with text")
        if own:
            return texts
        total, (validation_fraction, test_fraction) = texts.characters, self._fractions
        validation = int(total * (1 - validation_fraction - test_fraction))
        test = total if not test_fraction else int(total * (1 - test_fraction))
        start, end = {"train": (0, validation), "validation": (validation, test), "test": (test, total)}[split]
        part = dataclasses.replace(texts, start=start, end=end)
        if start == end or not len(part):
            raise UserError(f"{self.path} is too short for a {split} split: set {split}_fraction to 0 or add text")
        return part

    def fingerprint(self, split: str) -> str:
        """A digest of the split's text, whatever the file's name, its compression and its byte-order mark."""
        return self.examples(split).fingerprint

    def left_out(self, split: str) -> Sequence[str]:
        own = {"validation": self.validation_path, "test": self.test_path}.get(split)
        _, others = files_of(own or self.path)
        if not others:
            return ()
        names = ", ".join(shown(name) for name in others[:3])
        return [f"{len(others):,} files below {own or self.path} are left out, as their names are not of text: {names}"]


@dataclass(frozen=True)
class ParallelText(Source):
    """Sentence pairs from two files in which line n of one translates line n of the other."""

    train_source: Annotated[str, MOVED]
    train_target: Annotated[str, MOVED]
    validation_source: Annotated[str | None, MOVED] = None
    validation_target: Annotated[str | None, MOVED] = None
    test_source: Annotated[str | None, AFTERWARDS] = None
    test_target: Annotated[str | None, AFTERWARDS] = None

    def __post_init__(self):
        for split in ("train", "validation", "test"):
            source, target = self._paths(split)
            if bool(source) != bool(target):
                missing, given = ("target", "source") if source else ("source", "target")
                raise UserError(f"{split}_{missing} is missing: name the file parallel to {split}_{given}")

    def paths(self) -> tuple[str, ...]:
        return tuple(path for split in self.splits for path in self._paths(split) if path)

    def _paths(self, split: str) -> tuple[str | None, str | None]:
        return getattr(self, f"{split}_source"), getattr(self, f"{split}_target")

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in ("train", "validation", "test") if self._paths(split)[0])

    def examples(self, split: str) -> Pairs:
        """{"source": line, "target": line}; a UserError if a file is bad or the two differ in their number of lines."""
        check_split(split, self.splits)
        source, target = self._paths(split)
        return Pairs(source or "", target or "")

    def fingerprint(self, split: str) -> str:
        """A digest of the split's lines, whatever the files' names, compression and line ends."""
        return self.examples(split).fingerprint
