"""What attention heads and feed-forward neurons are worth, by the gradient of a gate on each (Michel et al. 2019)."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from research.analysis.heads import attention_layers
from research.parallel.sharding import by_path, path_names

type Loss = Callable[[Any, Mapping[str, jax.Array]], jax.Array]
"""The summed loss of a batch, from parameters and the batch."""


def importance(loss: Loss, params: Any, batches: Iterable[Mapping[str, jax.Array]]) -> dict[str, np.ndarray]:
    """The expected absolute gradient of an example's loss with respect to a gate of 1 on each head and neuron.

    Equation 2 of the paper, for heads; the same for the hidden layer of a feed-forward network. A gate multiplies what
    comes out of its head or neuron, hence the rows of the kernel behind it (`out`, `down`), by whose paths the values
    are given, float64 [heads] or [neurons], with a leading axis where layers are scanned. Examples of weight 0 do not
    count. Raises ValueError without an example.
    """
    gates = {path: jnp.ones(shape) for path, shape in _gates(params).items()}

    @jax.jit
    def of_batch(params, batch):
        def of_row(row):
            one = {name: array[None] for name, array in row.items()}
            gradients = jax.grad(lambda gates: loss(gated(params, gates), one))(gates)
            return jax.tree.map(jnp.abs, gradients)

        return jax.tree.map(lambda values: values.sum(axis=0), jax.lax.map(of_row, dict(batch)))

    totals: dict[str, Any] = {path: 0.0 for path in gates}
    count = 0
    for batch in batches:
        found = jax.device_get(of_batch(params, batch))
        totals = {path: total + np.asarray(found[path], np.float64) for path, total in totals.items()}
        count += int((np.asarray(batch["weight"]) > 0).sum())
    if not count:
        raise ValueError("there are no examples")
    return {path: total / count for path, total in totals.items()}


def gated(params: Any, gates: Mapping[str, jax.Array]) -> Any:
    """The parameters of the model in which each head's or neuron's output is multiplied by its gate."""

    def multiplied(path: str, leaf: jax.Array) -> jax.Array:
        if path not in gates:
            return leaf
        gate = gates[path]
        return leaf * gate.reshape(gate.shape + (1,) * (leaf.ndim - gate.ndim))

    return jax.tree.map(multiplied, path_names(params), params)


def _gates(params: Any) -> dict[str, tuple[int, ...]]:
    """The shape of the gates of each kernel behind heads or neurons."""
    leaves = by_path(params)
    heads = {layer.kernel for layer in attention_layers(params).values()}
    found = {path: leaves[path].shape[:-2] for path in heads}
    for path, leaf in leaves.items():
        beside = re.sub(r"/down/kernel$", "/up/kernel", path)
        if beside != path and beside in leaves:
            found[path] = leaf.shape[:-1]
    return found
