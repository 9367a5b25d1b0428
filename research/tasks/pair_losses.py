"""Losses of pairs, each against all others of its batch, in parts that the memory holds: CLIP's and SigLIP's."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from research.errors import UserError
from research.parallel.mesh import BATCH_AXES, ways

Kind = Literal["clip", "siglip"]
NEVER = -1e30
"""A logit of what does not count, finite so that gradients are."""


def number_of_chunks(batch: int, chunk: int | None) -> int:
    """The number of equal parts, of `chunk` examples, of a batch; 1 where it is not larger than that.

    Raises UserError where the parts would not be equal, or not be split evenly over the devices.
    """
    if chunk is None or chunk >= batch:
        return 1
    devices = ways(*BATCH_AXES)
    if batch % chunk or chunk % devices:
        fitting = [size for size in range(devices, batch + 1, devices) if batch % size == 0]
        nearest = min(fitting, key=lambda size: abs(size - chunk), default=batch)
        raise UserError(f"task.chunk {chunk} does not divide a batch of {batch} evenly on every device: use {nearest}")
    return batch // chunk


def in_chunks(array: Array, count: int) -> Array:
    """[batch, ...] as [count, batch / count, ...]: every count-th row, so that each device finds its rows of a part at
    home."""
    return array.reshape(-1, count, *array.shape[1:]).swapaxes(0, 1)


def joined(array: Array) -> Array:
    """The inverse of `in_chunks`."""
    return array.swapaxes(0, 1).reshape(-1, *array.shape[2:])


def encoded(encode: Callable[..., tuple[Array, Any]], inputs: tuple[Array, ...], count: int) -> tuple[Array, Any]:
    """`encode(*inputs)`, vectors and updates, in `count` parts of which one's activations exist at a time.

    The backward pass computes each part anew (Gao et al. 2021, GradCache, does so by hand). Updates, such as the
    statistics of a BatchNorm, are the mean over the parts: nothing else depends on their number.
    """
    if count == 1:
        return encode(*inputs)
    again = jax.checkpoint(lambda part: encode(*part), prevent_cse=False)
    vectors, updates = jax.lax.map(again, tuple(in_chunks(each, count) for each in inputs))
    return joined(vectors), jax.tree.map(lambda update: update.mean(axis=0), updates)


def pair_losses(
    kind: Kind,
    images: Float[Array, "batch width"],
    texts: Float[Array, "batch width"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    weights: Float[Array, "batch"],
    count: int = 1,
) -> tuple[Float32[Array, "batch"], Bool[Array, "batch"]]:
    """The loss of each pair, and whether an image's own text has a higher logit than all others.

    "clip": the mean of the cross-entropies of the image among all texts and of the text among all images (Radford et
    al. 2021, figure 3). "siglip": minus the sum over texts of log sigmoid(±logit), + for the image's own (Zhai et al.
    2023, algorithm 1). A logit is scale · images · texts + bias. Pairs of weight 0 are compared with nothing; their own
    losses mean nothing. The logits of all images and of one of `count` parts of the texts exist at a time.
    """
    batch = len(images)
    counted = weights > 0

    def part(carry, inputs):
        normaliser, best, own, total = carry
        texts, numbers, valid = inputs
        logits = scale * jnp.einsum("iw,tw->it", images, texts, preferred_element_type=jnp.float32) + bias
        pairs = jnp.arange(batch)[:, None] == numbers
        own += jnp.where(pairs, logits, 0).sum(axis=1)
        seen = jnp.where(valid, logits, NEVER)
        best = jnp.maximum(best, jnp.where(pairs, NEVER, seen).max(axis=1))
        if kind == "siglip":
            signed = jnp.where(valid, jax.nn.log_sigmoid(jnp.where(pairs, logits, -logits)), 0)
            return (normaliser, best, own, total - signed.sum(axis=1)), jnp.zeros(len(texts))
        normaliser = jnp.logaddexp(normaliser, jax.nn.logsumexp(seen, axis=1))
        by_text = jax.nn.logsumexp(jnp.where(counted[:, None], logits, NEVER), axis=0)
        return (normaliser, best, own, total), by_text

    zeros = jnp.zeros(batch)
    inputs = tuple(in_chunks(each, count) for each in (texts, jnp.arange(batch), counted))
    start = (zeros + NEVER, zeros + NEVER, zeros, zeros)
    (by_image, best, own, total), by_text = jax.lax.scan(jax.checkpoint(part, prevent_cse=False), start, inputs)
    if kind == "clip":
        total = (by_image + joined(by_text)) / 2 - own
    return total, own > best
