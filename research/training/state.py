"""The training state: one pytree that holds all that a run needs to resume."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from research.training.matched_layers import fresh_maps


class TrainState(struct.PyTreeNode):
    """step: int32 scalar, updates made so far. params: float32. opt_state: Optax's. model_state: the model's other
    collections (BatchNorm statistics), {} where it has none. ema: moving average of params, or None.
    accepted: int32 scalar, updates that did not diverge. norm: float32 scalar, the moving average of their gradients'
    norms, which began at 0."""

    step: jax.Array
    params: Any
    opt_state: Any
    model_state: Any
    ema: Any
    accepted: jax.Array
    norm: jax.Array

    def variables(self) -> dict[str, Any]:
        """What the model is applied with in evaluation: the average where one is kept."""
        return {"params": self.params if self.ema is None else self.ema, **self.model_state}


def create_state(
    model,
    inputs: tuple,
    optimizer,
    *,
    seed: int | jax.Array,
    ema: bool,
    maps: Mapping[str, tuple[int, int]] | None = None,
) -> TrainState:
    """A fresh state; a pure function of the seed, to be jitted with the shardings the state shall be born with.

    maps: shapes of those to a teacher's states, trained beside the model's parameters.
    """
    variables = dict(model.init({"params": jax.random.key(seed)}, *inputs))
    params = variables.pop("params")
    if maps:
        params = {**params, **fresh_maps(maps, jax.random.fold_in(jax.random.key(seed), 1))}
    # Collections that a call fills on request (attention weights, caches) are not state.
    model_state = {name: value for name, value in variables.items() if name == "batch_stats"}
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=optimizer.init(params),
        model_state=model_state,
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        accepted=jnp.int32(0),
        norm=jnp.float32(0),
    )
