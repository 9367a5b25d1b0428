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

SHARED = "cross_attention"
"""Name of what holds keys and values of a memory: all hypotheses of one source read the same."""


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
    """The cache whose row i is row `rows[i]` of the given one; rows may repeat. Shared entries stay as they are."""
    return _map_rows(lambda leaf, axis: jnp.take(leaf, rows, axis=axis, mode="clip"), cache)


def repeat_cache(cache: Cache, times: int) -> Cache:
    """The cache with each row `times` in a row. Shared entries stay as they are: one of their rows serves them all."""
    return _map_rows(lambda leaf, axis: jnp.repeat(leaf, times, axis=axis), cache)


def _map_rows(function: Callable[[Array, int], Array], cache: Cache) -> Cache:
    def apply(path, leaf):
        names = {entry.key for entry in path}
        return leaf if SHARED in names else function(leaf, 1 if SCANNED in names else 0)

    return jax.tree.map_with_path(apply, cache)
