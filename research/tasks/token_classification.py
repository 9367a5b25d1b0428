"""Tags of words, such as parts of speech and names: the first piece of a word carries its tag (BERT, section 5.3)."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from research.data.rows import Rows
from research.errors import UserError
from research.files import write_json
from research.metrics.spans import SpanScorer
from research.tasks.logits import Logits
from research.tasks.losses import cross_entropy, in_top, weighted
from research.tasks.task import Apply, Example, Metrics, Scorer
from research.tasks.text import TextTask, class_names_of_run, unseen
from research.tasks.vocabulary import given_text, remarks_on

NONE = -1
"""Where a token has no tag: other pieces of a word, marks, padding."""


class Window(NamedTuple):
    """Words of one sentence that fit into a row: the sentence's number, tokens without marks, the places of the first
    pieces among them, and the number of the first word."""

    owner: int
    tokens: list[int]
    firsts: list[int]
    word: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenClassification(TextTask):
    """{"source": words, "target": their tags}, both parted by single spaces.

    A sentence of more than `length` tokens becomes several rows, each of whole words: every word has one answer, and no
    row sees the words of another. class_names: the tags, unless given those of the training data in alphabetical order.
    """

    class_names: tuple[str, ...] = ()

    def prepare(self, source: Any, folder: Path) -> "TokenClassification":
        task = super().prepare(source, folder)
        stored = (folder / "classes.json").exists()
        names = class_names_of_run(() if stored else self._names(source), folder)
        if self.class_names and self.class_names != names:
            raise UserError(f"task.class_names lists {self.class_names}, {folder} has {names}: remove it")
        return dataclasses.replace(task, class_names=names)

    @classmethod
    def from_published(cls, published: Any, folder: Path) -> dict[str, Any]:
        write_json(folder / "classes.json", published.class_names)
        return {"task": cls.fields_of(published, folder), "data": {"name": "conll", "path": "my_words.conll"}}

    def _names(self, source: Any) -> tuple[str, ...]:
        seen = {tag for example in source.examples("train") for tag in example["target"].split(" ")}
        if missing := [name for name in self.class_names if name not in seen]:
            raise UserError(
                f"the training data have no word with the tag {missing[0]!r} of task.class_names: remove it there"
            )
        return self.class_names if seen == {*self.class_names} else tuple(sorted(seen))

    def with_head(self, model: nn.Module) -> nn.Module:
        return self.headed(model, len(self.class_names), None)

    def example(self, item: Any) -> Example:
        return {"source": " ".join(given_text(item).split())}

    def remarks(self, example: Example) -> list[str]:
        return remarks_on(example["source"], "source", self.vocabulary, None)

    def _windows(self, examples: Sequence[Example]) -> Iterator[Window]:
        sentences = [example["source"].split(" ") for example in examples]
        between = "" if self.vocabulary.parts_words else " "  # which other vocabularies keep with the word behind
        words = [between * (place > 0) + word for sentence in sentences for place, word in enumerate(sentence)]
        pieces, unknown = iter(self.vocabulary.encode_batch(words)), self.vocabulary.unk or 0
        for owner, sentence in enumerate(sentences):
            window = Window(owner, [], [], 0)
            for word in range(len(sentence)):
                tokens = (next(pieces) or [unknown])[: self.length - 2]
                if len(window.tokens) + len(tokens) > self.length - 2:
                    yield window
                    window = Window(owner, [], [], word)
                window.firsts.append(len(window.tokens))
                window.tokens.extend(tokens)
            yield window

    def rows(self, examples: Sequence[Example], *, train: bool, seed: int) -> Rows:
        examples = list(examples)
        numbers = {name: number for number, name in enumerate(self.class_names)}
        tags = []
        for number, example in enumerate(examples):
            words, given = example["source"].split(" "), example["target"].split(" ")
            if len(words) != len(given):
                raise UserError(
                    f"sentence {number} has {len(words)} words and {len(given)} tags: give one for each word"
                )
            if wrong := [tag for tag in given if tag not in numbers]:
                raise unseen(f"sentence {number}", wrong[0], self.class_names)
            tags.append([numbers[tag] for tag in given])
        rows, owners = [], []
        for window in self._windows(examples):
            row = self.marked(window.tokens)
            labels = np.full(len(row[0]), NONE, np.int32)
            labels[np.array(window.firsts) + 1] = tags[window.owner][window.word :][: len(window.firsts)]
            rows.append((*row, labels))
            owners.append(window.owner)
        return self.columns(rows, ["labels"], fills={"labels": NONE}, owner=np.array(owners))

    def questions(self, examples: Sequence[Example]) -> Rows:
        windows = list(self._windows(examples))
        return self.columns(
            [self.marked(window.tokens) for window in windows], owner=np.array([window.owner for window in windows])
        )

    def standalone(self) -> dict[str, Any]:
        return {**self.text_input("words"), "answer": {"kind": "tags", "names": list(self.class_names)}}

    def logits(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[tuple[Logits, ...], Mapping[str, Any]]:
        logits, updates = apply(*self.model_inputs(batch))
        return (Logits(logits, (batch["labels"] != NONE) * batch["weight"][:, None]),), updates

    def metrics(self, logits: Sequence[Logits], batch: Mapping[str, jax.Array]) -> Metrics:
        ((values, weights, *_),) = logits
        labels = jnp.maximum(batch["labels"], 0)
        losses, _ = cross_entropy(values, labels)
        right = in_top(values, labels, 1).astype(jnp.float32)
        return {"loss": weighted(losses, weights), "accuracy": weighted(right, weights)}

    def predict(self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> jax.Array:
        """The most probable tag at each token, int32 [batch, length]."""
        logits: Any = model.apply(variables, *self.model_inputs(batch))
        return logits.argmax(axis=-1)

    def answer(self, example: Example, rows: Sequence[np.ndarray]) -> dict[str, Any]:
        found = zip(self._windows([example]), rows, strict=True)
        tags = [self.class_names[int(row[place + 1])] for window, row in found for place in window.firsts]
        return {"text": " ".join(tags), "tags": tags}

    def scorer(self) -> Scorer | None:
        """Of spans, where tags such as B-PER say where they begin."""
        return SpanScorer() if any(name.startswith("B-") for name in self.class_names) else None

    def sample(self, example: Example, answer: Mapping[str, Any]) -> dict[str, Any]:
        sample = {"source": example["source"], "answer": answer["text"]}
        return sample | {"reference": example["target"]} if "target" in example else sample

    def show(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        labels = batch["labels"][row]
        return f"{super().show(batch, row)}\ntags: {' '.join(self.class_names[tag] for tag in labels[labels != NONE])}"
