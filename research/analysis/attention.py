"""Attention weights of any layer of any model."""

import functools
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from research.models.contract import SpecialTokens


def attention_weights(model: nn.Module, variables: Mapping[str, Any], *inputs: Any) -> dict[str, np.ndarray]:
    """The weights of every attention layer for these inputs, float32 [batch, heads, queries, keys].

    Keys are the layers' paths, such as "decoder/layer_0/cross_attention", in the order of the layers.
    """
    collected = _collect(model, variables, inputs)
    weights: dict[str, np.ndarray] = {}
    for path, value in jax.tree_util.tree_leaves_with_path(collected.get("attention", {})):
        names = [str(getattr(key, "key", key)) for key in path if hasattr(key, "key")][:-1]
        layer = "/".join(names)
        if "layers" in names:  # scanned: the layers lie along a leading axis
            for number, one in enumerate(np.asarray(value)):
                weights[layer.replace("layers", f"layer_{number}")] = one
        else:
            weights[layer] = np.asarray(value)
    return dict(sorted(weights.items(), key=lambda item: natural(item[0])))


@functools.partial(jax.jit, static_argnums=0)
def _collect(model: nn.Module, variables: Mapping[str, Any], inputs: tuple) -> Mapping[str, Any]:
    return model.apply(variables, *inputs, train=False, mutable=["attention"])[1]


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
