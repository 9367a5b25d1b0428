"""Attention weights of any layer of any model."""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from research.errors import UserError
from research.layers import dot_product
from research.layers.dot_product import both
from research.models.contract import SpecialTokens
from research.parallel.sharding import SCANNED


def attention_weights(
    model: nn.Module,
    variables: Mapping[str, Any],
    *inputs: Any,
    layers: Sequence[str] | None = None,
    heads: Sequence[int] | None = None,
    rows: Sequence[int] | slice | None = None,
) -> dict[str, np.ndarray]:
    """The weights of attention layers for these inputs, float32 [batch, heads, rows, keys], by the layers' paths, such
    as "decoder/layer_0/cross_attention", in the order of the layers.

    layers: their paths; heads and rows (numbers of queries, or a slice of them): of each of them; all unless given. The
    model computes as it does when nobody asks, and what is asked for is computed again: a few rows of a text of any
    length need no memory for the others. Raises UserError for a layer, a head or a row that does not exist.
    """
    asked = (one if one is None or isinstance(one, slice) else tuple(one) for one in (layers, heads, rows))
    found = _weights(model, variables, inputs, *asked)
    return {path: np.asarray(found[path]) for path in sorted(found, key=natural)}


@functools.partial(jax.jit, static_argnums=(0, 3, 4, 5))
def _weights(model, variables, inputs, layers, heads, rows):
    collected = model.apply(variables, *inputs, train=False, mutable=["attention"])[1]
    given = dict(by_layer(collected.get("attention", {})))
    for path in (path for path in layers or () if path not in given):
        raise UserError(f"{path!r} is not an attention layer of this model: use one of {', '.join(given)}")
    return {path: weights_of(given[path], heads, rows) for path in layers or given}


def by_layer(collected: Mapping[str, Any], names: tuple[str, ...] = ()) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What each layer was called with last, or its weights; scanned layers lie along a leading axis."""
    for name, value in collected.items():
        if not isinstance(value, tuple):
            yield from by_layer(value, (*names, name))
            continue
        arrays, path = value[-1] if name == "inputs" else {name: value[-1]}, "/".join(names)
        if SCANNED not in names:
            yield path, arrays
            continue
        for number in range(len(jax.tree.leaves(arrays)[0])):
            yield path.replace(SCANNED, f"layer_{number}"), {key: array[number] for key, array in arrays.items()}


def weights_of(
    given: Mapping[str, jax.Array],
    heads: Sequence[int] | None = None,
    rows: Sequence[int] | slice | None = None,
) -> Float32[Array, "batch heads rows keys"]:
    """The weights of what an attention layer gives away of itself: all, or some heads' and some queries'."""
    if "weights" in given:
        weights = given["weights"]
        chosen, numbers = _numbers(heads, weights.shape[1], "head"), _numbers(rows, weights.shape[2], "row")
        return _picked(_picked(weights, chosen, 1), numbers, 2)
    query, key = given["query"], given["key"]
    chosen, numbers = _numbers(heads, query.shape[2], "head"), _numbers(rows, query.shape[1], "row")
    key = _picked(key, chosen // (query.shape[2] // key.shape[2]), 2)
    query = _picked(_picked(query, numbers, 1), chosen, 2)
    parts = {name: _picked(_picked(given[name], chosen, 1), numbers, 2) for name in ("mask", "bias") if name in given}
    allowed = ~given["causal"] | (jnp.arange(key.shape[1]) <= numbers[:, None])
    mask = both(allowed[None, None], parts.get("mask"))
    return dot_product.attention_weights(query, key, bias=parts.get("bias"), mask=mask)


def _numbers(asked: Sequence[int] | slice | None, size: int, what: str) -> np.ndarray:
    numbers = np.arange(size)
    if asked is None or isinstance(asked, slice):
        return numbers if asked is None else numbers[asked]
    for number in (number for number in asked if not 0 <= number < size):
        raise UserError(f"{what} {number} is not there: this attention layer has 0 to {size - 1}")
    return np.array(asked)


def _picked(array: jax.Array, numbers: np.ndarray, axis: int) -> jax.Array:
    """Some places of an axis; all where there is one, which stands for any."""
    return array if array.shape[axis] == 1 else jnp.take(array, numbers, axis=axis)


def special_tokens(model: object) -> int:
    """How many tokens stand before the patches, such as a class token; 0 for a model that does not say."""
    return model.special_tokens if isinstance(model, SpecialTokens) else 0


def rollout(weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """How much each output token has taken from each input token over all layers, float32 [batch, queries, keys].

    The weights of self-attention layers in their order, heads averaged, half of every token kept by the residual
    connection (Abnar & Zuidema 2020, section 3).
    """
    total: np.ndarray | None = None
    for layer in weights.values():
        mixed = 0.5 * layer.mean(axis=1) + 0.5 * np.eye(layer.shape[-1], dtype=np.float32)
        total = mixed if total is None else mixed @ total
    if total is None:
        raise ValueError("there are no layers to roll out")
    return total


def natural(path: str) -> list[Any]:
    """Sorts layer_10 behind layer_9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]
