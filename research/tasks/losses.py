"""Losses and counts shared by tasks: per-position values, float32, reduced by the caller with its weights."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


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


def is_best(logits: Float[Array, "*batch classes"], labels: Int[Array, "*batch"]) -> Bool[Array, "*batch"]:
    """Whether no class scores higher than the label. Over a large vocabulary argmax, which says the same but for equal
    scores, takes the CPU as long as all the rest of the loss."""
    return jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0] >= logits.max(axis=-1)


def weighted(
    values: Float[Array, "*batch"], weights: Float[Array, "*batch"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(sum, weight) of values, the form in which metrics are added up."""
    return (values * weights).sum(), weights.sum()
