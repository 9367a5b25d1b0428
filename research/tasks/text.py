"""What tasks about one or two texts share: their tokens between marks, and a head on any encoder of text."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import flax.linen as nn
import jax
import numpy as np

from research.data.columns import Columns, ragged
from research.data.tokenizer import Tokenizer, TrainedTokenizer
from research.errors import UserError
from research.files import read_or_set_aside, write_json
from research.models.text_head import Pooling, TextHead
from research.ranges import Rate, Size
from research.tasks.task import PREPARED, Example, Task, View
from research.tasks.vocabulary import padding_of, rules_of, show_tokens, token_ids, vocabulary_of_run
from research.weights.vocabularies import encoder_of

SHORTEST = 5
"""Tokens of a row: three marks, and one of either text."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextTask(Task):
    """A task for an encoder of text (`research.models.text_head`): rows [CLS] text [SEP], or with a second text and its
    mark behind them, as segments 0 and 1 (Devlin et al. 2019, section 4); RoBERTa has two marks between them.

    length: tokens of a row, with the marks. dropout: before the head.
    """

    tokenizer: Tokenizer
    length: Size = 128
    dropout: Rate = 0.1
    vocabulary: TrainedTokenizer = PREPARED

    @property
    def pad(self) -> int:
        return padding_of(self.vocabulary)

    def prepare(self, source: Any, folder: Path) -> Self:
        if self.length < SHORTEST:
            raise UserError(f"task.length {self.length} leaves no room for two words: use {SHORTEST} or more")
        stored = (folder / "tokenizer.json").exists() or self.tokenizer.path is not None
        texts = ("source",) if stored else self.texts(source)
        vocabulary = vocabulary_of_run(self.tokenizer, source, texts, folder)
        return dataclasses.replace(self, vocabulary=vocabulary)

    def texts(self, source: Any) -> tuple[str, ...]:
        """The texts of the source's examples, by their keys, on which a vocabulary is trained."""
        return ("source",)

    @classmethod
    def fields_of(cls, published: Any, folder: Path) -> dict[str, Any]:
        """The section "task" of a published model with a new layer, beside what the task's answers need."""
        body, dropout = published.model.body, published.config.get("classifier_dropout")
        fields = encoder_of(published.folder, body, folder)
        return fields | {"dropout": body.dropout if dropout is None else dropout}

    def published(self, model: Any) -> dict[str, Any]:
        own = {} if self.dropout == model.body.dropout else {"classifier_dropout": self.dropout}
        return {"config.json": {"pad_token_id": self.pad, **own}}

    def model_fields(self) -> dict[str, Any]:
        return {"vocab_size": self.vocabulary.vocab_size}

    def headed(self, model: nn.Module, outputs: int, pool: Pooling | None) -> nn.Module:
        """The model with the task's head."""
        return TextHead(model, outputs, pool, self.dropout)

    def token_ids(self) -> Mapping[str, Mapping[str, int]]:
        return token_ids(self)

    def marked(self, first: Sequence[int], second: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of a row and their segments, int32 [length]; nothing is cut."""
        start, end = self.vocabulary.start_token, self.vocabulary.end_token
        between = [end] * self.vocabulary.marks_between
        tokens = [start, *first, end] if second is None else [start, *first, *between, *second, end]
        return np.array(tokens, np.int32), (np.arange(len(tokens)) > len(first) + len(between)).astype(np.int32)

    @property
    def room_for_two(self) -> int:
        """Tokens of two texts that a row holds beside their marks."""
        return self.length - 2 - self.vocabulary.marks_between

    def text_input(self, kind: str) -> dict[str, Any]:
        """The sections "input" and "tokenizer" of `standalone`."""
        fills = {"tokens": self.pad, "segments": 0}
        given = {"kind": kind, "length": self.length, "arrays": [*fills], "fills": fills}
        return {"input": given, "tokenizer": rules_of(self.vocabulary)}

    def columns(self, rows: Sequence[tuple[np.ndarray, ...]], names: Sequence[str] = (), **more: Any) -> Columns:
        """Rows of tokens, segments and the sequences of these names; `more` are other fields of `Columns`.

        Raises UserError where there are no rows.
        """
        if not rows:
            raise UserError("the data have no examples: give some, or another split")
        sequences = zip(("tokens", "segments", *names), zip(*rows, strict=True), strict=True)
        fills = {"tokens": self.pad, **more.pop("fills", {})}
        return Columns({name: ragged(column) for name, column in sequences}, self.length, fills=fills, **more)

    def model_inputs(self, batch: Mapping[str, Any]) -> tuple:
        return batch["tokens"], batch["tokens"] != self.pad, batch["segments"]

    def num_tokens(self, batch: Mapping[str, Any]) -> int:
        return batch["tokens"].size

    def shown(self, examples: Sequence[Example], count: int) -> list[Example]:
        """Evenly spaced over the split: files may lie sorted."""
        picked = np.linspace(0, len(examples) - 1, min(count, len(examples))).astype(int)
        return [examples[int(index)] for index in picked]

    def row_of(self, example: Example, answer: Mapping[str, Any]) -> int:
        """Which of the example's rows its answer stands in."""
        return 0

    def view(self, example: Example, answer: Mapping[str, Any]) -> View:
        rows, row = self.questions([example]), self.row_of(example, answer)
        lengths = rows.lengths()
        assert lengths is not None
        inputs = self.model_inputs(rows.batch(np.array([row]), np.zeros(1, np.int64), int(lengths[row])))
        tokens = [self.vocabulary.id_to_token(int(token)) for token in inputs[0][0]]
        return View(answer["text"], inputs, {"tokens": tokens}, lambda path: ("tokens", "tokens"))

    def show(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        return f"tokens: {show_tokens(self.vocabulary, batch['tokens'][row], self.pad)}"


def parted(text: str) -> list[str]:
    """The two texts of an input, or the only one: between them is a tab or, as a shell leaves it, a backslash and t."""
    return text.split("\t" if "\t" in text else "\\t", 1)


def cut_pair(first: Sequence[int], second: Sequence[int], room: int) -> tuple[Sequence[int], Sequence[int]]:
    """Two lists of tokens, of which the longer one, and of equal ones the second, is cut until both fit into `room`."""
    half = room // 2
    if len(first) + len(second) <= room:
        return first, second
    if len(second) <= half:
        return first[: room - len(second)], second
    if len(first) <= room - half:
        return first, second[: room - len(first)]
    return first[: room - half], second[:half]


def class_names_of_run(names: Sequence[str], folder: Path) -> tuple[str, ...]:
    """The classes that the run's folder has, or these, which are then kept there."""
    path = folder / "classes.json"
    if stored := read_or_set_aside(path, list[str]):
        return tuple(stored)
    if jax.process_index() == 0:
        write_json(path, list(names))
    return tuple(names)


def unseen(what: str, label: Any, names: Sequence[str]) -> UserError:
    """The error for a label that is none of the classes."""
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return UserError(
        f"{what} has the label {label!r}, which training has not seen ({shown}): correct it, or train on it"
    )
