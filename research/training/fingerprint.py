"""Fingerprints: what a checkpoint held when it was saved, to be compared with what is read from it."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt32

from research.parallel.sharding import by_path

Contents = dict[str, dict[str, Any]]
"""Path of an array -> its `shape` and the `sum` of its bits, as JSON."""

_GOLDEN = 0x9E3779B1
_LEARNT = ("params/", "ema/", "model_state/")


def contents(tree: Any) -> Contents:
    """The shape of each array and a sum of its bits, equal for any mesh and layout; any changed element changes it."""
    return {path: {"shape": list(leaf.shape), "sum": int(total)} for path, leaf, total, _ in _looked_at(tree)}


def not_finite(tree: Any) -> list[str]:
    """The paths of the parameters, averages and statistics in a state, or a part of it, that hold NaN or infinity."""
    return [path for path, _, _, finite in _looked_at(tree) if not finite]


def _looked_at(tree: Any) -> list[tuple[str, Any, UInt32[Array, ""], Bool[Array, ""]]]:
    arrays = {path: leaf for path, leaf in by_path(tree).items() if hasattr(leaf, "shape")}
    found = jax.device_get(_look(arrays))
    return [(path, leaf, *found[path]) for path, leaf in arrays.items()]


@jax.jit
def _look(arrays: Mapping[str, Array]) -> dict[str, tuple[UInt32[Array, ""], Bool[Array, ""]]]:
    """The sum of each array, and whether it is finite where that matters: both at once, since compiling costs most."""
    true = jnp.bool_(True)
    finite = {path: jnp.isfinite(array).all() if path.startswith(_LEARNT) else true for path, array in arrays.items()}
    return {path: (_sum(array), finite[path]) for path, array in arrays.items()}


def _sum(array: Array) -> UInt32[Array, ""]:
    """The sum of all words of 32 bits, each times an odd number that depends on its place, modulo 2**32.

    Odd factors have an inverse: a change of one word cannot be lost. Sums of integers depend on no order.
    """
    bits = _words(array)
    place = jnp.uint32(0)
    for axis, size in enumerate(bits.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    return jnp.sum(bits * (place * jnp.uint32(_GOLDEN) | jnp.uint32(1)), dtype=jnp.uint32)


def _words(array: Array) -> UInt32[Array, "..."]:
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        array = jnp.stack([array.real, array.imag])
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    size = min(array.dtype.itemsize, 4)  # 8 bytes become a further axis of two words
    return jax.lax.bitcast_convert_type(array, np.dtype(f"uint{8 * size}")).astype(jnp.uint32)


def sealed(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Notes (JSON) with the checksum of their text."""
    return {"notes": dict(notes), "crc": checksum(notes)}


def unsealed(stored: Any) -> dict[str, Any]:
    """What `sealed` was given. Raises ValueError where a character of it has changed or all of it is gone."""
    if not stored or stored.get("crc") != checksum(stored.get("notes")):
        raise ValueError("its notes are not what was saved")
    return dict(stored["notes"])


def checksum(notes: Any) -> int:
    """A CRC-32 of JSON."""
    return zlib.crc32(json.dumps(notes, sort_keys=True).encode())
