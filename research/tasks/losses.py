"""Losses and counts shared by tasks: per-position values, float32, reduced by the caller with its weights."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from research.layers.embedding import vocabulary_logits
from research.parallel.mesh import BATCH_AXES, ways


def cross_entropy(
    logits: Float[Array, "*batch classes"], labels: Int[Array, "*batch"], smoothing: float = 0.0
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """The smoothed loss and the plain negative log-likelihood of each position, in nats.

    Label smoothing (Szegedy et al. 2016, section 7) spreads `smoothing` evenly over all classes. Computed from the
    log-sum-exp: the one-hot targets and the log-probabilities never exist as arrays.
    """
    logits = logits.astype(jnp.float32)
    log_partition = jax.nn.logsumexp(logits, axis=-1)
    label_logits = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    likelihood = log_partition - label_logits
    even = log_partition - logits.mean(axis=-1)
    return (1 - smoothing) * likelihood + smoothing * even, likelihood


def in_top(logits: Float[Array, "*batch classes"], labels: Int[Array, "*batch"], count: int) -> Bool[Array, "*batch"]:
    """Whether the label is among the `count` best classes; of equal scores the lower class wins, as in argmax."""
    label_logits = jnp.take_along_axis(logits, labels[..., None], axis=-1)
    earlier = jnp.arange(logits.shape[-1]) < labels[..., None]
    ahead = (logits > label_logits) | ((logits == label_logits) & earlier)
    # A NaN beats nothing and is beaten by nothing: without this a broken model would be always right.
    return (ahead.sum(axis=-1) < count) & jnp.isfinite(label_logits[..., 0])


def soft_dice(
    logits: Float[Array, "batch height width classes"],
    labels: Int[Array, "batch height width"],
    valid: Bool[Array, "batch height width"],
) -> Float[Array, "batch"]:
    """The Dice coefficient of an image's probabilities and its labels, mean over classes, over the valid pixels.

    (2 Σ p y + 1) / (Σ p + Σ y + 1), with p the probabilities and y the one-hot labels, as in nnU-Net (Isensee et al.
    2021); the 1 decides for a class that neither has.
    """
    probabilities = jax.nn.softmax(logits.astype(jnp.float32)) * valid[..., None]
    true = jax.nn.one_hot(labels, logits.shape[-1]) * valid[..., None]
    both, sizes = (array.sum(axis=(1, 2)) for array in (probabilities * true, probabilities + true))
    return ((2 * both + 1) / (sizes + 1)).mean(axis=-1)


def vocabulary_loss(
    states: Float[Array, "batch length width"],
    table: Float[Array, "vocab width"],
    labels: Int[Array, "batch chosen"],
    weights: Float[Array, "batch chosen"],
    smoothing: float = 0.0,
    *,
    bias: Float[Array, "vocab"] | None = None,
    positions: Int[Array, "batch chosen"] | None = None,
) -> tuple[Float32[Array, ""], Float32[Array, ""], Float32[Array, ""]]:
    """Weighted sums over all positions of the smoothed loss and the negative log-likelihood, as in `cross_entropy`, and
    of right answers (no token scores higher than the label), for the logits states · table + bias.

    positions: the loss is at these alone (BERT's masked tokens); labels and weights are theirs. Rows with fewer
    positions than others are filled up with any, at weight 0. Without, every position has a label and a weight.

    The logits of a few positions exist at a time, and where a gradient is wanted it is computed along with them: memory
    is that of the states. Only the first result has a gradient, with respect to states, table and bias.
    """
    if positions is not None:
        states = jnp.take_along_axis(states, positions[:, :, None], axis=1)
    return _vocabulary_loss(states, table, bias, labels, weights, smoothing)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _vocabulary_loss(states, table, bias, labels, weights, smoothing):
    return _over_chunks(states, table, bias, labels, weights, smoothing, gradients=False)[0]


def _loss_and_gradients(states, table, bias, labels, weights, smoothing):
    return _over_chunks(states, table, bias, labels, weights, smoothing, gradients=True)


def _scale_gradients(smoothing, gradients, cotangents):
    scaled = jax.tree.map(lambda gradient: gradient * cotangents[0].astype(gradient.dtype), gradients)
    return *scaled, None, None


_vocabulary_loss.defvjp(_loss_and_gradients, _scale_gradients)

CHUNK = 1024
"""Positions on each device whose logits exist at a time."""


def num_chunks(batch: int, length: int) -> int:
    """In how many parts the positions of a batch become logits, so that CHUNK of each device are one at most."""
    return min(-(-batch * length // (CHUNK * ways(*BATCH_AXES, "sequence"))), length)


def parted(array: Array, count: int) -> Array:
    """An array [batch, length, ...] in `count` parts, [count, batch, positions, ...]; zeros fill up the last ones."""
    batch, length = array.shape[:2]
    missing = -length % (count * ways("sequence"))
    # Every n-th position, not n stretches: each device then finds its part of every chunk at home.
    array = jnp.pad(array, [(0, 0), (0, missing), *[(0, 0)] * (array.ndim - 2)])
    return jnp.moveaxis(array.reshape(batch, -1, count, *array.shape[2:]), 2, 0)


def _over_chunks(states, table, bias, labels, weights, smoothing, *, gradients):
    """The sums and, with `gradients`, those of the smoothed loss, as (by states, by table, by bias)."""
    batch, length, _ = states.shape
    count = num_chunks(batch, length)

    def chunk(carry, inputs) -> tuple[Any, Any]:
        states, labels, weights = inputs
        sums, by_table, by_bias = carry
        logits = vocabulary_logits(states, table)
        if bias is not None:
            logits += bias
        highest = logits.max(axis=-1)
        exponentials = jnp.exp(logits - highest[..., None])
        partition = exponentials.sum(axis=-1)
        log_partition = highest + jnp.log(partition)
        label_logits = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
        likelihood = log_partition - label_logits
        smoothed = (1 - smoothing) * likelihood + smoothing * (log_partition - logits.mean(axis=-1))
        right = (label_logits >= highest).astype(jnp.float32)
        sums = jax.tree.map(lambda total, new: total + (new * weights).sum(), sums, (smoothed, likelihood, right))
        if not gradients:
            return (sums, by_table, by_bias), None
        targets = (1 - smoothing) * (jnp.arange(len(table)) == labels[..., None]) + smoothing / len(table)
        by_logits = exponentials * (weights / partition)[..., None] - targets * weights[..., None]
        by_bias = None if bias is None else by_bias + by_logits.sum(axis=(0, 1))
        by_logits = by_logits.astype(table.dtype)
        by_table += jnp.einsum("blv,bld->vd", by_logits, states, preferred_element_type=jnp.float32)
        return (sums, by_table, by_bias), jnp.einsum("blv,vd->bld", by_logits, table)

    zero = jnp.float32(0)
    by_table = jnp.zeros(table.shape, jnp.float32) if gradients else None
    by_bias = jnp.zeros(bias.shape, jnp.float32) if gradients and bias is not None else None
    start: Any = (zero, zero, zero), by_table, by_bias
    inputs = tuple(parted(array, count) for array in (states, labels, weights))
    (sums, by_table, by_bias), by_states = jax.lax.scan(chunk, start, inputs)
    if not gradients:
        return sums, None
    by_states = jnp.moveaxis(by_states, 0, 2).reshape(batch, -1, states.shape[-1])[:, :length]
    by_bias = None if bias is None else by_bias.astype(bias.dtype)
    return sums, (by_states, by_table.astype(table.dtype), by_bias)


def weighted(
    values: Float[Array, "*batch"], weights: Float[Array, "*batch"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(sum, weight) of values, the form in which metrics are added up."""
    return (values * weights).sum(), weights.sum()
