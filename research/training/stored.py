"""Weights that a run keeps in fewer bits than it was trained with: bfloat16, or int8 with a scale for each channel."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Float32, Int8

from research.parallel.sharding import SCANNED, path_names

LEVELS = 127
"""The largest whole number of a channel; -128 is left out, so that both signs are alike."""
VALUES, SCALE = "int8", "scale"
"""The two parts of an array of int8, in its place among the parameters."""
_TABLE = re.compile(r"embedding$")
_PROJECTION = re.compile(r"/(query|key|value)/kernel$")


def quantised(array: Float[Array, "..."], axes: tuple[int, ...]) -> tuple[Int8[Array, "..."], Float32[Array, "..."]]:
    """Whole numbers and scales whose product is the array, to half a scale: 1/254 of a channel's largest weight.

    axes: those that share a scale; the scales keep them, with length 1. Rounded to nearest, symmetric about 0.
    """
    array = jnp.asarray(array, jnp.float32)
    largest = jnp.abs(array).max(axis=axes, keepdims=True)
    scale = jnp.where(largest > 0, largest / LEVELS, 1.0)
    return jnp.clip(jnp.round(array / scale), -LEVELS, LEVELS).astype(jnp.int8), scale


def shared_axes(path: str, rank: int) -> tuple[int, ...] | None:
    """The axes of a parameter that share a scale, all except those of its outputs; None for one that stays float32.

    An output of a table is a row, which is read and compared as a whole; of queries, keys and values, each number of a
    head; of other kernels, their last axis. Biases, norms and what else is small stay as they are.
    """
    first = int(f"/{SCANNED}/" in f"/{path}")
    if rank - first < 2 or not path.endswith(("kernel", "embedding")):
        return None
    if _TABLE.search(path):
        return (rank - 1,)
    return (first,) if _PROJECTION.search(f"/{path}") else tuple(range(first, rank - 1))


@dataclasses.dataclass(frozen=True)
class BFloat16:
    """All parameters in bfloat16: half of the bytes, with 8 bits of precision."""

    def stored(self, params: Any) -> Any:
        """The parameters as they are kept."""
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), params)

    def abstract(self, params: Any) -> Any:
        """Shapes, dtypes and shardings of what is kept, from those of the parameters."""
        return jax.tree.map(lambda leaf: _like(leaf, jnp.bfloat16), params)


@dataclasses.dataclass(frozen=True)
class Int8Weights:
    """Kernels and tables in int8 with one float32 scale for each output channel; the rest in float32."""

    def stored(self, params: Any) -> Any:
        """The parameters as they are kept: in the place of an array two, `int8` and `scale`."""

        def kept(path: str, leaf: Any) -> Any:
            if (axes := shared_axes(path, leaf.ndim)) is None:
                return jnp.asarray(leaf, jnp.float32)
            return dict(zip((VALUES, SCALE), quantised(leaf, axes), strict=True))

        return _mapped(kept, params)

    def abstract(self, params: Any) -> Any:
        """Shapes, dtypes and shardings of what is kept, from those of the parameters."""

        def kept(path: str, leaf: Any) -> Any:
            if (axes := shared_axes(path, len(leaf.shape))) is None:
                return leaf
            shape = tuple(1 if axis in axes else size for axis, size in enumerate(leaf.shape))
            return {VALUES: _like(leaf, jnp.int8), SCALE: _like(leaf, jnp.float32, shape)}

        return _mapped(kept, params)


WEIGHTS = {"bf16": BFloat16, "int8": Int8Weights}
"""The config section `weights`: how a run that only answers keeps its parameters."""


def restored(params: Any) -> Any:
    """Parameters as the model takes them, whatever of them is kept as int8; inside a jitted program or outside.

    What is bfloat16 becomes float32, which holds the same numbers.
    """
    if isinstance(params, Mapping):
        if params.keys() == {VALUES, SCALE}:
            return params[VALUES].astype(jnp.float32) * params[SCALE]
        return {name: restored(part) for name, part in params.items()}
    return params.astype(jnp.float32) if params.dtype == jnp.bfloat16 else params


def _mapped(function: Callable[[str, Any], Any], params: Any) -> Any:
    return jax.tree.map(function, path_names(params), params)


def _like(leaf: Any, dtype: Any, shape: tuple[int, ...] | None = None) -> jax.ShapeDtypeStruct:
    """An abstract array with another dtype; with another shape it is whole on every device."""
    sharding = getattr(leaf, "sharding", None)
    if shape is not None and isinstance(sharding, NamedSharding):
        sharding = NamedSharding(sharding.mesh, PartitionSpec())
    return jax.ShapeDtypeStruct(leaf.shape if shape is None else shape, np.dtype(dtype), sharding=sharding)
