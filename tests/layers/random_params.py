"""Parameters for tests, far from the special values (zero biases, zero heads, unit scales) that hide mistakes."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def random_params(module: nn.Module, *inputs: Any, deviation: float = 0.4, seed: int = 0) -> dict[str, Any]:
    """Variables {"params": ...} for these inputs: normal numbers, around 1 for the scales of norms."""
    generator = np.random.default_rng(seed)

    def draw(path, leaf):
        return jnp.float32(deviation * generator.normal(size=leaf.shape) + (path[-1].key == "scale"))

    return jax.tree.map_with_path(draw, jax.eval_shape(module.init, jax.random.key(0), *inputs))
