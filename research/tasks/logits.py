"""Logits with the weight of each place: what losses are made of, and what a student learns from its teacher."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int

from research.layers.embedding import vocabulary_logits
from research.tasks.losses import cross_entropy, num_chunks, parted, vocabulary_loss


class Logits(NamedTuple):
    """What a model says at the places where a task's loss is.

    values: [*places, classes], the first axis of places that of the rows. Of a model of a language they are states
    [batch, length, width] instead, whose product with the `table` [classes, width], and the `bias` [classes] where
    there is one, are the logits, too many to exist at a time. weights: float32 [*places], 0 where nothing is learnt;
    the loss is their weighted mean.
    """

    values: jax.Array
    weights: jax.Array
    table: jax.Array | None = None
    bias: jax.Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the logits themselves, [*places, classes]."""
        return (*self.values.shape[:-1], self.values.shape[-1] if self.table is None else len(self.table))

    @property
    def row_weights(self) -> Float32[Array, " batch"]:
        """What each row of the batch weighs in the loss."""
        return self.weights.reshape(len(self.weights), -1).sum(axis=-1)


def vocabulary_sums(
    logits: Logits, labels: Int[Array, "batch length"], smoothing: float = 0.0
) -> tuple[Float32[Array, ""], Float32[Array, ""], Float32[Array, ""]]:
    """`vocabulary_loss` of the logits of a model of a language."""
    states, weights, table, bias = logits
    assert table is not None
    return vocabulary_loss(states, table, labels, weights, smoothing, bias=bias)


def teacher_loss(student: Logits, teacher: Logits, temperature: float | None) -> Float32[Array, ""]:
    """The sum over all places of what `divergence` says there, with the student's weights.

    Whole logits, of classes, need memory for about three arrays of their size. Of states and a table some positions
    are turned into logits at a time, as in `vocabulary_loss`, and again for the gradient: memory is that of the states
    of both models, and the time that of one product more with each table.
    """
    if student.table is None:
        return (student.weights * divergence(student.values, teacher.values, temperature)).sum()
    # Their gradients are sums over chunks, in float32 whatever the compute dtype.
    table = student.table.astype(jnp.float32)
    bias = None if student.bias is None else student.bias.astype(jnp.float32)

    @jax.checkpoint
    def chunk(total, inputs):
        own, other, weights = inputs
        logits = _of_states(own, table.astype(own.dtype), bias)
        told = _of_states(other, teacher.table, teacher.bias)
        return total + (weights * divergence(logits, told, temperature)).sum(), None

    batch, length = student.weights.shape
    count = num_chunks(batch, length)
    parts = tuple(parted(array, count) for array in (student.values, teacher.values, student.weights))
    return jax.lax.scan(chunk, jnp.float32(0), parts)[0]


def _of_states(states: jax.Array, table: jax.Array | None, bias: jax.Array | None) -> jax.Array:
    assert table is not None
    logits = vocabulary_logits(states, table)
    return logits if bias is None else logits + bias


def divergence(
    logits: Float[Array, "*places classes"], teacher: Float[Array, "*places classes"], temperature: float | None
) -> Float32[Array, "*places"]:
    """How far the logits are from what the teacher's say, in nats.

    Without a temperature the cross-entropy with the teacher's best class (Touvron et al. 2021, section 3). With one,
    the divergence KL(teacher, student) of both softened by it, times its square, so that gradients are as large at any
    temperature (Hinton et al. 2015, section 2).
    """
    if temperature is None:
        return cross_entropy(logits, teacher.argmax(axis=-1))[0]
    targets = jax.nn.log_softmax(teacher.astype(jnp.float32) / temperature)
    student = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
    return temperature**2 * (jnp.exp(targets) * (targets - student)).sum(axis=-1)
