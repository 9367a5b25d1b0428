"""Models without one of their attention heads."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from research.analysis.attention import natural
from research.parallel.sharding import by_path, path_names


class Layer(NamedTuple):
    """An attention layer: the path of its projection out of the heads, and its place where layers are scanned."""

    kernel: str
    place: int | None
    num_heads: int


def attention_layers(params: Any) -> dict[str, Layer]:
    """The attention layers of a model by their paths, as `research.analysis.attention` names them.

    They are found by their parameters: a projection `out` [heads, size, width] beside a `query`.
    """
    leaves, found = by_path(params), {}
    for path, leaf in leaves.items():
        layer = path.removesuffix("/out/kernel")
        if layer == path or f"{layer}/query/kernel" not in leaves:
            continue
        if leaf.ndim == 3:
            found[layer] = Layer(path, None, leaf.shape[0])
        for place in range(leaf.shape[0] if leaf.ndim == 4 else 0):
            found[layer.replace("layers", f"layer_{place}")] = Layer(path, place, leaf.shape[1])
    return dict(sorted(found.items(), key=lambda item: natural(item[0])))


@functools.partial(jax.jit, static_argnums=1)
def without_head(variables: Mapping[str, Any], layer: Layer, head: int | jax.Array) -> Mapping[str, Any]:
    """The variables with nothing coming out of a head, as if its attention were multiplied by 0 (Michel et al. 2019,
    section 2.3): its part of the layer's projection is 0."""

    def silenced(name: str, leaf: jax.Array) -> jax.Array:
        if name != layer.kernel:
            return leaf
        return leaf.at[head].set(0) if layer.place is None else leaf.at[layer.place, head].set(0)

    params = variables["params"]
    return {**variables, "params": jax.tree.map(silenced, path_names(params), params)}
