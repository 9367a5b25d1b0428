"""What is odd about an experiment's data, all of it: to be known before training is paid for."""

import collections
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from research.data.source import Mixed, Streamed
from research.errors import UserError
from research.runs.experiment import Experiment

SHOWN = 20
"""Examples that a finding names; `Finding.examples` has all."""


@dataclasses.dataclass
class Finding:
    """One kind of oddity, with the splits and numbers of its examples."""

    what: str
    examples: list[tuple[str, int]] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        if not self.examples:
            return self.what
        named = ", ".join(f"{split} {index}" for split, index in self.examples[:SHOWN])
        more = f" and {len(self.examples) - SHOWN:,} more" if len(self.examples) > SHOWN else ""
        return f"{self.what}: {len(self.examples):,} examples ({named}{more})"


@dataclasses.dataclass
class Audit:
    """Of each split the number of examples and those of each label, and what is odd."""

    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    labels: dict[str, collections.Counter] = dataclasses.field(default_factory=dict)
    findings: list[Finding] = dataclasses.field(default_factory=list)


def audit(experiment: Experiment) -> Audit:
    """Reads every example of every split."""
    found, kinds, first = Audit(), dict[str, Finding](), dict[bytes, tuple[str, int]]()

    def note(what: str, split: str, index: int) -> None:
        kinds.setdefault(what, Finding(what)).examples.append((split, index))

    for split in experiment.source.splits:
        labels = found.labels.setdefault(split, collections.Counter())
        for sentence in experiment.source.left_out(split):
            kinds.setdefault(sentence, Finding(sentence))
        found.counts[split] = 0
        for index, example in _examples(experiment, split):
            found.counts[split] += 1
            if isinstance(example, UserError):
                note(str(example), split, index)
                continue
            labels.update(experiment.task.labels(example))
            earlier = first.setdefault(_digest(example), (split, index))
            if earlier != (split, index):
                here = earlier[0] == split
                note(f"repeated within {split}" if here else f"in {earlier[0]} and in {split}", split, index)
            for what in experiment.task.remarks(example):
                note(what, split, index)
        names = experiment.task.label_names(experiment.source)
        for label in sorted({*range(len(names))} - {*labels}):
            kinds[f"{split} {names[label]}"] = Finding(f"{split} has no examples of class {names[label]!r}")
    found.findings = list(kinds.values())
    return found


def _examples(experiment: Experiment, split: str) -> Iterator[tuple[int, Mapping[str, Any] | UserError]]:
    """Every example of a split, or what is wrong with it; the splits' own error where they cannot be opened."""
    try:
        yield from enumerate(_read(experiment.examples(split)))
    except UserError as error:  # of the split, or of a stream, which ends there
        yield 0, error


def _read(examples: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any] | UserError]:
    if isinstance(examples, Streamed):
        yield from examples
        return
    if isinstance(examples, Mixed):
        for part in examples.parts:
            yield from _read(part)
        return
    for index in range(len(examples)):
        try:
            yield examples[index]
        except UserError as error:
            yield error


def _digest(example: Mapping[str, Any]) -> bytes:
    """Of all that an example holds except its label."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(example.items()):
        if name == "label":
            continue
        digest.update(name.encode())
        digest.update(
            f"{value.shape}".encode() + value.tobytes() if isinstance(value, np.ndarray) else str(value).encode()
        )
    return digest.digest()
