"""Labels of texts and of pairs of texts: classes, several labels at once, or a number (GLUE's tasks and their like)."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from research.data.rows import Rows
from research.errors import UserError
from research.files import write_json
from research.metrics.labels import CLASSES, LABELS, NUMBERS, LabelScorer
from research.models.text_head import Pooling
from research.ranges import ANSWERING, Part
from research.tasks.logits import Logits
from research.tasks.losses import cross_entropy, in_top, weighted
from research.tasks.task import Apply, Example, Metrics, Scorer
from research.tasks.text import TextTask, class_names_of_run, cut_pair, parted, unseen
from research.tasks.vocabulary import given_text, remarks_on

SIDES = ("source", "second")
BETWEEN = "|"
"""Parts several labels of a text where they are written as one."""
PROBLEMS = {
    "single_label_classification": "classes",
    "multi_label_classification": "labels",
    "regression": "number",
}
"""transformers' names of each `kind`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextClassification(TextTask):
    """{"source", "label"}, and for pairs {"source", "second", "label"}; a person parts the two by a tab.

    kind: "classes" (one label each), "labels" (any number, a list or parted by "|"), or "number" (regression).
    pool: see `research.models.text_head`; "pooler" is BERT's own, "last" serves a GPT. Texts beyond `length` tokens are
    cut at their ends, of two the longer one first. class_names: in the order of the outputs, unless given that of the
    data, or else of the alphabet. positive: the class that the score `f1` is of. threshold: of the probability above
    which one of several labels is given.
    """

    kind: Literal["classes", "labels", "number"] = "classes"
    pool: Pooling = "cls"
    class_names: tuple[str, ...] = ()
    positive: str | None = None
    threshold: Annotated[Part, ANSWERING] = 0.5

    def prepare(self, source: Any, folder: Path) -> "TextClassification":
        task = super().prepare(source, folder)
        if self.kind == "number":
            return task
        stored = (folder / "classes.json").exists()
        names = class_names_of_run(() if stored else self._names(source), folder)
        if self.class_names and self.class_names != names:
            raise UserError(f"task.class_names lists {self.class_names}, the data have {names}: remove it")
        if self.positive is not None and self.positive not in names:
            raise UserError(f"task.positive {self.positive!r} is not a class: use one of {', '.join(names)}")
        return dataclasses.replace(task, class_names=names)

    @classmethod
    def from_published(cls, published: Any, folder: Path) -> dict[str, Any]:
        names, problem = published.class_names, published.config.get("problem_type")
        if problem is not None and (not isinstance(problem, str) or problem not in PROBLEMS):
            raise UserError(f"config.json has problem_type {str(problem)[:40]}: use one of {', '.join(PROBLEMS)}")
        kind = PROBLEMS[problem] if problem else "number" if len(names) == 1 else "classes"
        if kind == "number" and len(names) > 1:
            raise UserError(f"{published.folder} gives {len(names)} numbers for a text: only one is known here")
        fields = cls.fields_of(published, folder) | {"kind": kind, "pool": "pooler"}
        if kind != "number":
            write_json(folder / "classes.json", names)
        return {"task": fields, "data": {"name": "table", "path": "my_texts.csv"}}

    def published(self, model: Any) -> dict[str, Any]:
        files = super().published(model)
        (problem,) = (problem for problem, kind in PROBLEMS.items() if kind == self.kind)
        return files | {"config.json": files["config.json"] | {"problem_type": problem}}

    def texts(self, source: Any) -> tuple[str, ...]:
        return tuple(side for side in SIDES if side in source.examples("train")[0])

    def _names(self, source: Any) -> tuple[str, ...]:
        """The classes of the training examples. Raises UserError for fewer than two, and for a named one without any.

        Numbers stand for the classes that the source names.
        """
        own = tuple(getattr(source, "class_names", ())) if self.kind == "classes" else ()
        if own:
            return own
        seen = {label for example in source.examples("train") for label in self._labels(example)}
        if missing := [name for name in self.class_names if name not in seen]:
            raise UserError(
                f"the training data have no example of {missing[0]!r}, one of {len(self.class_names)} classes in "
                "task.class_names: add examples of it or remove it there"
            )
        if len(seen) < 2:
            raise UserError(f"the training data have {len(seen)} labels: two or more are needed to tell them apart")
        return self.class_names if seen == {*self.class_names} else tuple(sorted(seen))

    def _labels(self, example: Example) -> Sequence[str]:
        label = example["label"]
        if self.kind == "classes":
            return [str(label)]
        if isinstance(label, str):
            return [part for part in label.split(BETWEEN) if part]
        return [str(part) for part in label]

    def with_head(self, model: nn.Module) -> nn.Module:
        return self.headed(model, len(self.class_names) or 1, self.pool)

    def example(self, item: Any) -> Example:
        return dict(zip(SIDES, parted(given_text(item)), strict=False))

    def remarks(self, example: Example) -> list[str]:
        sides = [side for side in SIDES if side in example]
        return [remark for side in sides for remark in remarks_on(example[side], side, self.vocabulary, self.length)]

    def rows(self, examples: Sequence[Example], *, train: bool, seed: int) -> Rows:
        labels = [self._target(example, f"example {number}") for number, example in enumerate(examples)]
        return self.columns(list(self._tokens(examples)), values={"label": np.array(labels)})

    def questions(self, examples: Sequence[Example]) -> Rows:
        return self.columns(list(self._tokens(examples)))

    def _tokens(self, examples: Sequence[Example]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        examples = list(examples)
        firsts = self.vocabulary.encode_batch([example["source"] for example in examples])
        seconds = iter(self.vocabulary.encode_batch([each["second"] for each in examples if "second" in each]))
        for example, first in zip(examples, firsts, strict=True):
            if "second" in example:
                yield self.marked(*cut_pair(first, next(seconds), self.room_for_two))
            else:
                yield self.marked(first[: self.length - 2])

    def _target(self, example: Example, what: str) -> Any:
        """An example's label as the loss has it: a class's number, a 1 for each label, or a number."""
        label = example["label"]
        if self.kind == "number":
            with contextlib.suppress(TypeError, ValueError):
                if np.isfinite(value := np.float32(label)):
                    return value
            raise UserError(f"{what} has the label {label!r}, which is not a number: correct it")
        if isinstance(label, int) and self.kind == "classes":
            if not 0 <= label < len(self.class_names):
                raise unseen(what, label, self.class_names)
            return np.int32(label)
        numbers = {name: number for number, name in enumerate(self.class_names)}
        labels = self._labels(example)
        if wrong := [name for name in labels if name not in numbers]:
            raise unseen(what, wrong[0], self.class_names)
        if self.kind == "classes":
            return np.int32(numbers[labels[0]])
        return np.array([name in labels for name in self.class_names], np.float32)

    def standalone(self) -> dict[str, Any]:
        kind = {"classes": "text_label"}.get(self.kind, self.kind)
        answer = {"kind": kind, "names": list(self.class_names), "threshold": self.threshold}
        return {**self.text_input("text"), "answer": answer}

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[Metrics, Mapping[str, Any]]:
        """Cross-entropy, of each label by itself for several; the square of the error of a number."""
        if self.kind != "number":
            return super().loss(apply, batch)
        values, updates = apply(*self.model_inputs(batch))
        return {"loss": weighted((values[:, 0] - batch["label"]) ** 2, batch["weight"])}, updates

    def logits(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[tuple[Logits, ...], Mapping[str, Any]]:
        """Each of several labels is a place with two classes, without it (whose logit is 0) and with it."""
        if self.kind == "number":
            raise UserError("a number has no logits to distil: leave the section distillation out")
        values, updates = apply(*self.model_inputs(batch))
        weights = batch["weight"]
        if self.kind == "labels":
            shares = jnp.broadcast_to(weights[:, None] / values.shape[-1], values.shape)
            return (Logits(jnp.stack([jnp.zeros_like(values), values], axis=-1), shares),), updates
        return (Logits(values, weights),), updates

    def metrics(self, logits: Sequence[Logits], batch: Mapping[str, jax.Array]) -> Metrics:
        ((values, weights, *_),) = logits
        label = batch["label"]
        if self.kind == "labels":
            chances = values[..., 1]
            losses = jax.nn.softplus(chances) - label * chances
            return {"loss": weighted(losses.mean(axis=-1), batch["weight"])}
        losses, _ = cross_entropy(values, label)
        right = in_top(values, label, 1).astype(jnp.float32)
        return {"loss": weighted(losses, weights), "accuracy": weighted(right, weights)}

    def predict(self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> jax.Array:
        """Probabilities of the classes or labels, or the number, float32 [batch, outputs]."""
        logits: Any = model.apply(variables, *self.model_inputs(batch))
        if self.kind == "number":
            return logits
        return jax.nn.softmax(logits) if self.kind == "classes" else jax.nn.sigmoid(logits)

    def answer(self, example: Example, rows: Sequence[np.ndarray]) -> dict[str, Any]:
        (values,) = rows
        if self.kind == "number":
            return {"text": f"{values[0]:.4g}", "value": float(values[0])}
        if self.kind == "classes":
            label = self.class_names[int(np.argmax(values))]
            return {"text": label, "label": label, "probability": float(values.max())}
        chances = {name: float(value) for name, value in zip(self.class_names, values, strict=True)}
        labels = [name for name, chance in chances.items() if chance > self.threshold]
        return {"text": BETWEEN.join(labels), "labels": labels, "probabilities": chances}

    def scorer(self) -> Scorer:
        if self.kind == "number":
            return LabelScorer(tuple(NUMBERS), NUMBERS, lambda example: float(example["label"]), "value")
        if self.kind == "labels":
            return LabelScorer(tuple(LABELS), LABELS, self._labels, "labels")
        names = tuple(name for name in CLASSES if name != "f1" or self.positive is not None)
        return LabelScorer(names, CLASSES, self.reference, "label", self.positive)

    def reference(self, example: Example) -> str:
        """The right answer as a person reads it."""
        if self.kind == "classes":
            return self.class_names[int(self._target(example, "an example"))]
        return BETWEEN.join(self._labels(example)) if self.kind == "labels" else str(example["label"])

    def sample(self, example: Example, answer: Mapping[str, Any]) -> dict[str, Any]:
        source = "\t".join(example[side] for side in SIDES if side in example)
        sample = {"source": source, "answer": answer["text"]}
        sample |= {"probability": answer["probability"]} if "probability" in answer else {}
        return sample | {"reference": self.reference(example)} if "label" in example else sample

    def show(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        label = batch["label"][row]
        shown = self.class_names[label] if self.kind == "classes" else label
        return f"{super().show(batch, row)}\nlabel: {shown}"
