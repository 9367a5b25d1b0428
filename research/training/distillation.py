"""Learning from a teacher: what a task's logits, and the layers below them, are compared with beside the labels."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from research.errors import UserError
from research.models.contract import Heads
from research.ranges import Fraction, NotNegative, Temperature
from research.tasks.logits import Logits, teacher_loss
from research.tasks.task import Apply, Metrics, Task
from research.training.inference import Inference
from research.training.matched_layers import SEEN, MatchedLayers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation:
    """The config section `distillation`, of any task whose loss is made of logits.

    The loss is (1 - weight) times the task's own and `weight` times what the teacher says at the same places.
    teacher: the folder of a run of the same task, with the same classes and the same vocabulary, of whatever model. It
    sees the same inputs (augmented, mixed, masked), without dropout. kind: "soft" learns all of its probabilities, both
    softened by `temperature` (Hinton et al. 2015, section 2), "hard" the class that it finds best (Touvron et al. 2021,
    section 3). A model with a second head (`model.distillation`) learns from the teacher with that head alone.

    hidden: weight of the mean squared error between the states of both behind matched layers, the student's through a
    learned linear map (Jiao et al. 2020, equation 8). attention: weight of that between the logits of their attention,
    head by head (equation 7), which takes the memory of all of them. Layer i of n learns from layer round(i m / n) of
    the teacher's m. Both are means over layers and over the tokens of a row that are not padding (of packed images over
    all); a row weighs what it does in the task's loss.
    """

    teacher: str
    weight: Fraction = 0.5
    temperature: Temperature = 2.0
    kind: Literal["soft", "hard"] = "soft"
    hidden: NotNegative = 0.0
    attention: NotNegative = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Distilled:
    """The loss of a task with a teacher.

    maps: the shape of each map from the student's states to the teacher's, by the stack of layers.
    """

    options: Distillation
    teacher: Inference
    maps: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)

    @property
    def collections(self) -> tuple[str, ...]:
        """What has to be mutable while the student is applied."""
        return SEEN if self.options.hidden or self.options.attention else ()

    def loss(
        self,
        task: Task,
        model: nn.Module,
        apply: Apply,
        batch: Mapping[str, jax.Array],
        taught: Any,
        maps: Mapping[str, Any],
    ) -> tuple[Metrics, Mapping[str, Any]]:
        """The task's metrics with the teacher's part in `loss` and its parts alone beside it, and the model's updates.

        apply: with `collections` among what is mutable. taught: the teacher's variables. maps: parameters as in
        `fresh_maps`, by the stack. Raises UserError where the teacher's logits, layers or heads do not fit the model's.
        """
        student, logits, layers, updates = self._compared(task, model, apply, batch, taught)
        metrics = task.metrics(student.answer, batch)
        own, weight = (task.metrics(student.labelled, batch) if student.two_heads else metrics)["loss"]
        temperature = self.options.temperature if self.options.kind == "soft" else None
        means = [
            teacher_loss(mine, theirs, temperature) / jnp.maximum(mine.weights.sum(), 1e-9)
            for mine, theirs in zip(student.taught, logits, strict=True)
        ]
        parts = {"distillation_loss": sum(means) * weight}
        total = (1 - self.options.weight) * own + self.options.weight * parts["distillation_loss"]
        if layers is not None and self.options.hidden:
            parts["hidden_loss"] = layers.hidden(maps)
            total += self.options.hidden * parts["hidden_loss"]
        if layers is not None and self.options.attention:
            parts["attention_loss"] = layers.attention()
            total += self.options.attention * parts["attention_loss"]
        return metrics | {name: (sums, weight) for name, sums in parts.items()} | {"loss": (total, weight)}, updates

    def _compared(
        self, task: Task, model: nn.Module, apply: Apply, batch: Mapping[str, jax.Array], taught: Any
    ) -> tuple["_Student", tuple[Logits, ...], MatchedLayers | None, Mapping[str, Any]]:
        """What both say, and where it is asked for what is inside of them; the student's updates without that."""
        student, updates = _student(task, model, apply, batch)
        variables = self.teacher.cast(taught)

        def ask(*inputs, method=None):
            mutable = list(self.collections)
            return self.teacher.model.apply(variables, *inputs, train=False, method=method, mutable=mutable)

        logits, inside = self.teacher.task.logits(ask, batch)
        _check_logits(student.taught, logits)
        if not self.collections:
            return student, logits, None, updates
        layers = MatchedLayers(updates, inside, task.model_inputs(batch), student.answer[0])
        return student, logits, layers, {name: updates[name] for name in updates if name not in SEEN}

    def shapes(
        self, task: Task, model: nn.Module, variables: Mapping[str, Any], taught: Any, batch: Mapping[str, Any]
    ) -> dict[str, tuple[int, int]]:
        """The shape of each map, by tracing both models with a batch; {} without `hidden`.

        variables: the student's, or their shapes. Raises UserError where the teacher does not fit, as in `loss`.
        """
        found: dict[str, tuple[int, int]] = {}

        def trace(variables, taught, batch):
            def apply(*inputs, method=None):
                mutable = [*(name for name in variables if name != "params"), *self.collections]
                rngs = {"dropout": jax.random.key(0)}
                return model.apply(variables, *inputs, train=True, method=method, rngs=rngs, mutable=mutable)

            _, _, layers, _ = self._compared(task, model, apply, batch, taught)
            if layers is not None and self.options.hidden:
                found.update(layers.shapes())
            if layers is not None and self.options.attention:
                layers.attention()

        jax.eval_shape(trace, variables, taught, batch)
        return found


@dataclasses.dataclass(frozen=True)
class _Student:
    """What a student says: the logits that learn the labels, those that learn from the teacher, and its answer's."""

    labelled: tuple[Logits, ...]
    taught: tuple[Logits, ...]
    answer: tuple[Logits, ...]

    @property
    def two_heads(self) -> bool:
        return self.labelled is not self.answer


def _student(
    task: Task, model: nn.Module, apply: Apply, batch: Mapping[str, jax.Array]
) -> tuple[_Student, Mapping[str, Any]]:
    """The first head learns the labels, the last one from the teacher, and the mean of all is the answer."""
    heads: list[jax.Array] = []

    def recorded(*inputs, method=None):
        if method is not None or not isinstance(model, Heads):
            return apply(*inputs, method=method)
        found, updates = apply(*inputs, method="all_heads")
        heads.extend(found)
        return sum(found) / len(found), updates

    answer, updates = task.logits(recorded, batch)
    if len(heads) < 2:
        return _Student(answer, answer, answer), updates

    def of(head: jax.Array) -> tuple[Logits, ...]:
        return task.logits(lambda *inputs, method=None: (head, updates), batch)[0]

    return _Student(of(heads[0]), of(heads[-1]), answer), updates


def _check_logits(student: Sequence[Logits], teacher: Sequence[Logits]) -> None:
    ours, theirs = (" and ".join(str(list(each.shape)) for each in logits) for logits in (student, teacher))
    if ours != theirs:
        raise UserError(
            f"distillation.teacher gives logits of the shape {theirs}, and the model of {ours}: give a teacher whose "
            "task and model have the same outputs"
        )
