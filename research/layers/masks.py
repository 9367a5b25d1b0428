"""Attention masks: boolean, True = may attend, broadcastable to [batch, heads, queries, keys], combined with `&`."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def causal_mask(length: int) -> Bool[Array, "1 1 {length} {length}"]:
    """Each position attends to itself and to what stands before it (Vaswani et al. 2017, section 3.2.3)."""
    return jnp.tril(jnp.ones((1, 1, length, length), bool))


def padding_mask(valid: Bool[Array, "batch keys"]) -> Bool[Array, "batch 1 1 keys"]:
    """Every query attends to the valid keys only."""
    return valid[:, None, None, :]


def segment_mask(
    query_segments: Int[Array, "batch queries"], key_segments: Int[Array, "batch keys"]
) -> Bool[Array, "batch 1 queries keys"]:
    """Texts packed into one row attend to themselves only: equal segment numbers."""
    return query_segments[:, None, :, None] == key_segments[:, None, None, :]


def window_mask(length: int, window: int) -> Bool[Array, "1 1 {length} {length}"]:
    """Each position attends to those at most `window` positions away, on either side."""
    position = jnp.arange(length)
    return (jnp.abs(position[:, None] - position[None, :]) <= window)[None, None]
