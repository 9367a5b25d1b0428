"""Classification with a teacher: a trained model whose answers are learned beside the labels."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from research.errors import UserError
from research.models.contract import Heads
from research.ranges import Fraction, Temperature
from research.tasks.classification import Classification, difference
from research.tasks.losses import cross_entropy
from research.tasks.task import Apply, Metrics, Task, Teacher


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation(Classification):
    """Classification that also learns a teacher's answers about the same, augmented and mixed, images.

    teacher: the folder of a run with the same classes, of whatever model. kind: "hard" learns the class that the
    teacher finds best (Touvron et al. 2021, section 3), "soft" all of its probabilities, at a temperature (Hinton et
    al. 2015). weight: the teacher's share of the loss; the labels have the rest. A model with a second head
    (`model.distillation`) learns from the teacher with that head alone, any other with the only one it has.
    """

    # No default, unlike the attribute of the base class.
    teacher: str = dataclasses.field()  # pyrefly: ignore[bad-override]
    kind: Literal["hard", "soft"] = "hard"
    weight: Fraction = 0.5
    temperature: Temperature = 3.0

    def check_teacher(self, teacher: Task, folder: str) -> None:
        if not isinstance(teacher, Classification):
            raise UserError(f"task.teacher {folder} does not classify images: give a run of classification")
        if teacher.class_names != self.class_names:
            raise UserError(
                f"task.teacher {folder} knows {difference(teacher.class_names, self.class_names)}: give a teacher that "
                "was trained on the classes of the data"
            )

    def loss(
        self, apply: Apply, batch: Mapping[str, jax.Array], teacher: Teacher | None = None
    ) -> tuple[Metrics, Mapping[str, Any]]:
        if teacher is None:  # in evaluation this is plain classification
            return super().loss(apply, batch)
        heads, updates = apply(*self.model_inputs(batch), method=_all_heads)
        distilled = teacher_loss(heads[-1], teacher(batch), self.temperature if self.kind == "soft" else None)
        losses = (1 - self.weight) * self.label_loss(heads[0], batch) + self.weight * distilled
        return self.metrics(jnp.asarray(sum(heads) / len(heads)), losses, batch), updates


def teacher_loss(
    logits: Float[Array, "batch classes"], teacher: Float[Array, "batch classes"], temperature: float | None
) -> Float[Array, " batch"]:
    """How far the logits are from the teacher's probabilities, in nats.

    Without a temperature the cross-entropy with the teacher's best class. With one, the divergence KL(teacher, student)
    of both softened by it, times its square, so that gradients are as large at any temperature (Hinton et al. 2015,
    section 2).
    """
    if temperature is None:
        return cross_entropy(logits, teacher.argmax(axis=-1))[0]
    # A probability to the power of 1 / temperature, normalised, is the softmax of the logits over the temperature.
    targets = jax.nn.log_softmax(jnp.log(jnp.maximum(teacher, 1e-37)) / temperature)
    student = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
    return temperature**2 * (jnp.exp(targets) * (targets - student)).sum(axis=-1)


def _all_heads(model: nn.Module, images: jax.Array, *, train: bool) -> tuple[jax.Array, ...]:
    """The logits of every head apart, of a model that may have just one."""
    return model.all_heads(images, train=train) if isinstance(model, Heads) else (model(images, train=train),)
