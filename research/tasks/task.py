"""What a task is: the only code that knows both the batch and the model, from a person's input to an answer."""

import dataclasses
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import flax.linen as nn
import jax
import numpy as np

from research.config import build
from research.data.mixture import MixedRows
from research.data.rows import Rows
from research.data.source import Mixed
from research.errors import UserError
from research.ranges import ANSWERING, marks
from research.tasks.logits import Logits
from research.values import convert

Example = Mapping[str, Any]

Metrics = dict[str, tuple[jax.Array, jax.Array]]
"""Name -> (sum, weight), scalars or arrays such as one value a class. Added over batches, micro-batches and hosts, then
divided: exact for any of these splits."""

Apply = Callable[..., tuple[Any, Mapping[str, Any]]]
"""Calls the model with parameters, mode and random keys bound: `outputs, updates = apply(*inputs)`, where `updates`
are the collections the call changed (BatchNorm statistics)."""

PATCHES = "patches"
"""Stands among the names of tokens for the squares of an image."""

PREPARED: Any = None
"""The default of a field that `prepare` fills in."""


class Scorer(Protocol):
    """Scores of whole answers, such as BLEU: it is shown each example with its answer once, in any order."""

    names: Sequence[str]
    """The scores that `result` may have: which of them it has is `Task.score_names`."""

    def add(self, example: Example, answer: Mapping[str, Any]) -> None:
        """Takes what it needs of an example and its answer; neither is kept by anybody else."""

    def result(self) -> dict[str, float]:
        """The scores of everything that was added."""

    def signatures(self) -> dict[str, str]:
        """What exactly some scores are, as a published number has to say; {} where names say it all."""


@dataclasses.dataclass(frozen=True)
class View:
    """What there is to see of a model that answers one example.

    inputs: the model's arguments. tokens: lists of tokens by name; `sides` gives the names of those that an attention
    layer's queries and keys are, by its path: PATCHES are the patches of `image`, and other names that are not among
    `tokens` are of what is not shown. Of those that look at patches the ones named "" are left out. image: uint8
    [height, width, channels], for models of images. target: the class that was answered.
    """

    title: str
    inputs: tuple
    tokens: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    sides: Callable[[str], tuple[str, str]] = lambda path: (PATCHES, PATCHES)
    image: np.ndarray | None = None
    target: int | None = None


def no_answers(folder: Path) -> UserError:
    """The error of a published model that no task here answers with."""
    return UserError(
        f"{folder} has no head, or no vocabulary that is read here, and so no answers to give: start a training from "
        f"it, with train --from={folder}"
    )


def difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """How two lists of classes differ, such as "10 classes, not 9 (the first that differ: 'dog', not 'cow')"."""
    first = next(pair for pair in zip((*ours, None), (*theirs, None), strict=False) if pair[0] != pair[1])
    return f"{len(ours)} classes, not {len(theirs)} (the first that differ: {first[0]!r}, not {first[1]!r})"


class Task:
    """One problem: how examples become arrays, what is minimised and measured, and how an answer is made and shown.

    A task is a frozen dataclass whose fields are the config section `task`. Examples are dicts as the sources give
    them. A new task needs `rows`, `model_inputs` and `loss`, or `logits` and `metrics` in its place; with `example`,
    `predict` and `answer` it answers people, with `scorer` its answers are scored.
    """

    whole_batch: ClassVar[bool] = False
    """Whether the loss compares each example with all others of its batch, which micro-batches would part."""

    compares: ClassVar[bool] = False
    """Whether the loss compares each example with others of its batch or micro-batch, whose size then changes it."""

    takes_images: ClassVar[bool] = False
    """Whether inputs are images; else they are texts."""

    text_marks: ClassVar[Literal["both", "end", "none"]] = "both"
    """Which marks of its start and its end the model finds around a text."""

    @property
    def pad(self) -> int | None:
        """The token that fills up a batch's sequences; None where there are none."""
        return None

    @property
    def text_length(self) -> int | None:
        """Tokens that a text of the model's input has at most, with its marks; None where there are no texts."""
        return getattr(self, "length", None)

    def prepare(self, source: Any, folder: Path) -> Self:
        """The task with what it learns from the data, such as its vocabulary or class names: read from the run's folder
        or made from the source and saved.

        Only process 0 writes. Raises UserError when what the folder holds does not fit the config.
        """
        return self

    def check_source(self, source: Any, folder: Path) -> None:
        """Raises UserError where the data are not what the task was prepared with, such as other classes."""

    def model_fields(self) -> dict[str, Any]:
        """The model's fields that the data decide, such as `vocab_size`."""
        return {}

    def with_head(self, model: nn.Module) -> nn.Module:
        """The config's model as the task trains it: with a head of the task's own, where it has one.

        Raises UserError for a model that has nothing to put a head on.
        """
        return model

    def token_ids(self) -> Mapping[str, Mapping[str, int]]:
        """The id of each token, of the vocabularies of "source" and "target"; {} where there are none."""
        return {}

    def example(self, item: Any) -> Example:
        """A person's input, such as a text, a file or an array, as an example without its answer; or a UserError."""
        raise UserError(f"{type(self).__name__} answers no inputs: give a run of another task")

    def fixed_examples(self, texts: Sequence[str]) -> list[Example]:
        """Examples that are the same everywhere, for the certificate of an imported model: of these texts here."""
        return [self.example(text) for text in texts]

    @classmethod
    def from_published(cls, published: Any, folder: Path) -> dict[str, Any]:
        """The sections "task" and "data" for a published model (`research.weights.published.Published`).

        What `prepare` would learn from data, such as the vocabulary, is written into the run's folder. The data are of
        names that a person replaces: `evaluate --config.data.path=...`. Raises UserError where it has no answers.
        """
        raise no_answers(published.folder)

    def published(self, model: Any) -> dict[str, Any]:
        """What transformers has to know of the task beside a model's weights: JSON by the names of its files.

        Of `config.json` that is what the model's fields do not say.
        """
        return {}

    def standalone(self) -> dict[str, Any]:
        """What a program that has nothing of this project needs for the task's two ends, as plain values.

        `input` and `answer` are sections whose `kind` is one of those in `research/runs/standing_alone`. That of the
        input names the `arrays` of a row that `predict` reads and, in `fills`, what those are padded with that have a
        length. `tokenizer`, `target_tokenizer`: of a vocabulary that is needed, `rules_of` it.
        """
        raise TypeError(f"{type(self).__name__} does not stand alone")

    def remarks(self, example: Example) -> list[str]:
        """What is odd about an example, in words that are the same for others of the kind: "is empty"."""
        return []

    def label_names(self, source: Any) -> Sequence[str]:
        """The names of the classes that whole numbers of `labels` are."""
        return getattr(source, "class_names", ())

    def labels(self, example: Example) -> Iterable[int | str]:
        """What an example has of the data's classes, to be counted before training."""
        if "label" not in example:
            return ()
        return (example["label"] if isinstance(example["label"], int) else str(example["label"]),)

    def rows(self, examples: Sequence[Example], *, train: bool, seed: int) -> Rows:
        """Examples with their answers as arrays for `loss`; `seed` decides what training draws at random."""
        raise TypeError(f"{type(self).__name__} has no rows")

    def rows_of(self, examples: Sequence[Example], *, train: bool, seed: int) -> Rows:
        """`rows`, of each part of a mixture by itself."""
        if not isinstance(examples, Mixed):
            return self.rows(examples, train=train, seed=seed)
        parts = [self.rows_of(part, train=train, seed=seed) for part in examples.parts]
        return MixedRows(parts, examples.weights)

    def questions(self, examples: Sequence[Example]) -> Rows:
        """Examples without their answers (a split's, or a person's own) as arrays for `predict`.

        Raises UserError for an input that the model cannot take, such as an empty line.
        """
        return self.rows(examples, train=False, seed=0)

    def model_inputs(self, batch: Mapping[str, Any]) -> tuple:
        """The positional arguments of the model, for initialisation and for counting its cost."""
        raise TypeError(f"{type(self).__name__} has no model inputs")

    def image_inputs(self, batch: Mapping[str, Any]) -> Any:
        """Of the model's arguments the images, which a batch may hold without the others."""
        return self.model_inputs(batch)[0]

    def num_tokens(self, batch: Mapping[str, Any]) -> int | None:
        """Tokens of a batch, padding included, for durations and speed; None where there are none."""
        return None

    def mixed(self, batch: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
        """A whole training batch before it is split into micro-batches, for what mixes its examples."""
        return batch

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[Metrics, Mapping[str, Any]]:
        """The metrics of a batch, `loss` (what training minimises) among them, and the model's updates.

        Examples whose `batch["weight"]` is 0 do not count.
        """
        logits, updates = self.logits(apply, batch)
        return self.metrics(logits, batch), updates

    def logits(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[tuple[Logits, ...], Mapping[str, Any]]:
        """What the loss is made of, one for each of its parts, and the model's updates; a teacher gives the same.

        Raises UserError for a task whose loss is made of something else, which defines `loss` itself.
        """
        raise UserError(
            f"{type(self).__name__} has no logits to distil: leave the section distillation out, or use another task"
        )

    def metrics(self, logits: Sequence[Logits], batch: Mapping[str, jax.Array]) -> Metrics:
        """What `loss` measures of the logits."""
        raise TypeError(f"{type(self).__name__} has no metrics")

    def predict(self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> Any:
        """Raw answers for a batch: a pytree of arrays with a leading axis of rows. Pure; it is jitted."""
        raise TypeError(f"{type(self).__name__} predicts nothing")

    def stream(
        self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array], example: Example
    ) -> Iterator[Any]:
        """The raw answer to one example, the first of the batch, as it grows; the last one is that of `predict`."""
        raise TypeError(f"{type(self).__name__} answers all at once")

    def answer(self, example: Example, rows: Sequence[Any]) -> dict[str, Any]:
        """The answer to an example from the raw answers of all its rows, as a person reads it.

        A dict of plain values, with `text` or `label` among them.
        """
        raise TypeError(f"{type(self).__name__} has no answers")

    @classmethod
    def options(cls) -> dict[str, Any]:
        """The options of the task's answers, with their types: the fields that are marked `ANSWERING`."""
        hints = typing.get_type_hints(cls, include_extras=True)
        return {name: hint for name, hint in hints.items() if ANSWERING in marks(hint)}

    def answering(self, **options: Any) -> Self:
        """The task with other options of its answers, such as the size of a beam: those marked `ANSWERING`.

        Raises UserError for an option that it does not have, or for a value out of its range.
        """
        known = self.options()
        for name in options:
            if name not in known:
                choices = f"use one of {', '.join(known)}" if known else "this run's have none"
                raise UserError(f"{name} is not an option of answers: {choices}")
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
        values = {name: convert(value, known[name], name, build) for name, value in given.items()}
        return dataclasses.replace(self, **values)  # pyrefly: ignore[bad-specialization]

    def scorer(self) -> Scorer | None:
        """Measures what `loss` does not, on whole answers; None where there is nothing of that kind."""
        return None

    def score_names(self, examples: Sequence[Example]) -> Sequence[str]:
        """The scores that a split will have, so that one of them can be asked for before training."""
        scorer = self.scorer()
        return () if scorer is None else scorer.names

    def shown(self, examples: Sequence[Example], count: int) -> list[Example]:
        """At most `count` examples of a split that are worth showing with their answers: here the first.

        None are, where the task predicts nothing.
        """
        if type(self).predict is Task.predict:
            return []
        return [examples[index] for index in range(min(count, len(examples)))]

    def sample(self, example: Example, answer: Mapping[str, Any]) -> dict[str, Any]:
        """An example and its answer for console and report.

        Of `source`, `prompt`, `image` (uint8 [height, width, channels]), `answer`, `label`, `probability`, `reference`
        and `chrf` those that there are.
        """
        return {"answer": answer.get("text", answer.get("label", ""))}

    def view(self, example: Example, answer: Mapping[str, Any]) -> View | None:
        """What of a model that answers an example can be shown; None where nothing can."""
        return None

    def picture(self, example: Example, answer: Mapping[str, Any]) -> np.ndarray | None:
        """The answer drawn over the example's image, uint8 [height, width, 3]; None for answers that are not places."""
        return None

    def words(self, example: Example) -> tuple[np.ndarray, np.ndarray] | None:
        """The word, counted from 0, that each token of the source and each of the target is of, -1 for none, int64
        [tokens] each; None for a task that writes no target from a source."""
        return None

    def masks(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Which queries may attend to which keys in a batch's first row, bool [queries, keys], by a name for each."""
        return {}

    def show(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        """One row of a batch as the model sees it, readable: tokens beside their text."""
        return "\n".join(f"{name}: {array.dtype} {list(array.shape)}" for name, array in batch.items())
