"""Text from UTF-8 files, plain or gzip: one running text, or sentence pairs line by line."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from research.data.plain_text import lines_of, read_text
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

    def paths(self) -> tuple[str, ...]:
        return (self.path,)

    @property
    def splits(self) -> tuple[str, ...]:
        held_out = {"validation": self.validation_fraction, "test": self.test_fraction}
        return ("train", *(split for split, fraction in held_out.items() if fraction))

    def examples(self, split: str) -> Sequence[Example]:
        """One example {"text": ...}; a UserError names a file that `read_text` refuses or that is too short."""
        check_split(split, self.splits)
        text = read_text(self.path)
        validation = int(len(text) * (1 - self.validation_fraction - self.test_fraction))
        test = len(text) if not self.test_fraction else int(len(text) * (1 - self.test_fraction))
        ranges = {"train": slice(0, validation), "validation": slice(validation, test), "test": slice(test, None)}
        if not text[ranges[split]]:
            raise UserError(f"{self.path} is too short for a {split} split: set {split}_fraction to 0 or add text")
        return [{"text": text[ranges[split]]}]

    def fingerprint(self, split: str) -> str:
        """A digest of the split's text, whatever the file's name, its compression and its byte-order mark."""
        return hashlib.sha256(self.examples(split)[0]["text"].encode()).hexdigest()


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

    def paths(self) -> tuple[str, ...]:
        return tuple(path for split in self.splits for path in self._paths(split) if path)

    def _paths(self, split: str) -> tuple[str | None, str | None]:
        return getattr(self, f"{split}_source"), getattr(self, f"{split}_target")

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in ("train", "validation", "test") if self._paths(split)[0])

    def examples(self, split: str) -> Sequence[Example]:
        """{"source": line, "target": line}; a UserError if a file is bad or the two differ in their number of lines."""
        check_split(split, self.splits)
        paths = self._paths(split)
        sources, targets = (lines_of(read_text(path)) for path in paths if path)
        if len(sources) != len(targets):
            raise UserError(
                f"{paths[0]} has {len(sources)} lines and {paths[1]} has {len(targets)}: give files of equal length"
            )
        return [{"source": source, "target": target} for source, target in zip(sources, targets, strict=True)]

    def fingerprint(self, split: str) -> str:
        """A digest of the split's lines, whatever the files' names, compression and line ends."""
        digest = hashlib.sha256()
        for pair in self.examples(split):
            digest.update(f"{pair['source']}\n{pair['target']}\n".encode())  # no line holds a line feed
        return digest.hexdigest()
