"""Key-value caches: zeros to start from, and their rows picked anew for beam search.

A cache is the collection "cache" of a model: arrays with a leading batch axis, behind a leading layer axis where the
layers are scanned.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from research.layers.transformer import SCANNED

Cache = Any
"""A pytree of arrays."""


def init_cache(
    model: nn.Module, tokens: Int[Array, "batch length"], *inputs: Any, method: Callable | str | None = None
) -> Cache:
    """A float32 cache of zeros for `tokens.shape`: so many rows and, at most, so many tokens.

    `method` of the model is called with tokens and inputs for their shapes only; nothing is computed.
    """
    init = functools.partial(model.init, method=method)
    variables = jax.eval_shape(init, jax.random.key(0), tokens, *inputs, cache_index=0)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), variables["cache"])


def gather_cache(cache: Cache, rows: Int[Array, "new_batch"]) -> Cache:
    """The cache whose row i is row `rows[i]` of the given one; rows may repeat."""

    def gather(path, leaf):
        axis = 1 if any(entry.key == SCANNED for entry in path) else 0
        return jnp.take(leaf, rows, axis=axis)

    return jax.tree.map_with_path(gather, cache)
