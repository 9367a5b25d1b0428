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

from research.parallel.sharding import SCANNED

Cache = Any
"""A pytree of arrays."""

SHARED = "cross_attention"
"""Name of what holds keys and values of a memory: all hypotheses of one source read the same."""


def init_cache(
    model: nn.Module, tokens: Int[Array, "batch length"], *inputs: Any, method: Callable | str | None = None
) -> Cache:
    """A float32 cache of zeros for `tokens.shape`: its number of rows and, at most, of tokens.

    `method` of the model is called with tokens and inputs for their shapes only; nothing is computed.
    """
    init = functools.partial(model.init, method=method)
    variables = jax.eval_shape(init, jax.random.key(0), tokens, *inputs, cache_index=0)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), variables["cache"])


def gather_cache(cache: Cache, rows: Int[Array, "new_batch"]) -> Cache:
    """The cache whose row i is row `rows[i]` of the given one; rows may repeat. Shared entries stay as they are."""
    return map_rows(lambda leaf, axis: jnp.take(leaf, rows, axis=axis, mode="clip"), cache)


def resize_cache(cache: Cache, length: int) -> Cache:
    """The cache cut to `length` tokens, or with zeros up to there. Shared entries and states have no such length."""

    def resize(path, leaf):
        names = {entry.key for entry in path}
        if SHARED in names or not names & {"cached_key", "cached_value"}:
            return leaf
        axis = 2 if SCANNED in names else 1
        leaf = jax.lax.slice_in_dim(leaf, 0, min(length, leaf.shape[axis]), axis=axis)
        missing = [(0, length - leaf.shape[axis] if each == axis else 0) for each in range(leaf.ndim)]
        return jnp.pad(leaf, missing)

    return jax.tree.map_with_path(resize, cache)


def map_rows(
    function: Callable[[Array, int], Any], cache: Cache, shared: Callable[[Array], Any] = lambda leaf: leaf
) -> Any:
    """The pytree of `function(leaf, batch axis)`, and of `shared(leaf)` for shared entries."""

    def apply(path, leaf):
        names = {entry.key for entry in path}
        return shared(leaf) if SHARED in names else function(leaf, 1 if SCANNED in names else 0)

    return jax.tree.map_with_path(apply, cache)
