"""Labelled examples of files: a file for each split, or one whose examples are dealt out among them."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Annotated

import numpy as np

from research.data.source import Example, Source, check_split
from research.errors import UserError
from research.ranges import AFTERWARDS, MOVED, Range


@dataclasses.dataclass(frozen=True)
class SplitFiles(Source):
    """A source that reads whole files into memory; what a file holds is said by a class below, with `read`.

    folds: without files of their own, one example of `path` in this number is the test (numbers 0, folds, ...), and the
    one after it validates; with a test_path only the latter, with a validation_path only the former, at the numbers 0,
    folds, and so on. The rest trains. None holds nothing out.
    """

    path: Annotated[str, MOVED]
    validation_path: Annotated[str | None, MOVED] = None
    test_path: Annotated[str | None, AFTERWARDS] = None
    folds: Annotated[int | None, Range(3, 1_000_000)] = None

    def read(self, path: str) -> list[Example]:
        """All examples of a file. Raises UserError for one that cannot be read or is not of the kind."""
        raise TypeError(f"{type(self).__name__} reads no files")

    def paths(self) -> tuple[str, ...]:
        return tuple(path for path in (self.path, self.validation_path, self.test_path) if path is not None)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in ("train", "validation", "test") if split in ("train", *self._own, *self._dealt))

    @property
    def _own(self) -> dict[str, str]:
        """Splits with a file of their own."""
        paths = {"validation": self.validation_path, "test": self.test_path}
        return {split: path for split, path in paths.items() if path is not None}

    @property
    def _dealt(self) -> dict[str, int]:
        """The held-out splits of `path`, with their places in each fold."""
        held_out = [split for split in ("test", "validation") if split not in self._own]
        return {split: place for place, split in enumerate(held_out)} if self.folds else {}

    def examples(self, split: str) -> Sequence[Example]:
        examples = self._read(self.path_of(split))
        return [examples[number] for number in self.numbers(split, len(examples))]

    def path_of(self, split: str) -> str:
        """The file that a split is read of. Raises UserError for an unknown split."""
        check_split(split, self.splits)
        return self._own.get(split, self.path)

    def numbers(self, split: str, count: int) -> Sequence[int] | np.ndarray:
        """Which of the examples of its file are a split's own, of `count`."""
        if split in self._own or self.folds is None:
            return range(count)
        places = self._dealt
        if split in places:
            return range(places[split], count, self.folds)
        return np.flatnonzero(~np.isin(np.arange(count) % self.folds, [*places.values()]))

    def _read(self, path: str) -> list[Example]:
        if path not in self._files:
            examples = self.read(path)
            if not examples:
                raise UserError(f"{path} holds no examples: give a file with some")
            self._files[path] = examples
        return self._files[path]

    @functools.cached_property
    def _files(self) -> dict[str, list[Example]]:
        """What was read, by path."""
        return {}
