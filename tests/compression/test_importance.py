"""What heads and neurons are worth: the gradients of gates are finite differences of the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.analysis.importance import importance
from research.models.gpt import GPT
from research.parallel.sharding import by_path, path_names
from tests.layers.random_params import random_params

TOKENS = jnp.array([[1, 2, 3, 8], [5, 4, 7, 6], [2, 2, 2, 2]])
STEP = 1e-2


@pytest.mark.parametrize("scan", [False, True])
def test_it_is_the_mean_of_absolute_finite_differences(scan):
    """By scaling the output of each head and neuron up and down, one example at a time; padding does not count."""
    model = GPT(9, num_layers=2, width=8, num_heads=2, mlp_width=3, max_length=4, scan=scan)
    params = random_params(model, TOKENS)["params"]
    batch = {"tokens": TOKENS, "weight": jnp.array([1.0, 1.0, 0.0])}

    @jax.jit
    def loss(params, batch):
        logits = jax.nn.log_softmax(model.apply({"params": params}, batch["tokens"][:, :-1]))
        right = jnp.take_along_axis(logits, batch["tokens"][:, 1:, None], axis=-1)[..., 0]
        return -(right.sum(axis=1) * batch["weight"]).sum()

    found = importance(loss, params, [batch])
    assert len(found) == (2 if scan else 4)
    leaves = by_path(jax.device_get(params))
    for path, values in found.items():
        assert values.shape[-1] == (2 if path.endswith("out/kernel") else 3)
        for place in np.ndindex(values.shape):
            differences = []
            for row in range(2):
                one = {name: array[row : row + 1] for name, array in batch.items()}
                up, down = (
                    loss(
                        jax.tree.map((leaves | {path: scaled(leaves[path], place, size)}).get, path_names(params)), one
                    )
                    for size in (1 + STEP, 1 - STEP)
                )
                differences.append(abs(float(up - down)) / (2 * STEP))
            np.testing.assert_allclose(values[place], np.mean(differences), rtol=0.02, atol=2e-3)
    with pytest.raises(ValueError, match="no examples"):
        importance(loss, params, [batch | {"weight": jnp.zeros(3)}])


def scaled(array, place, factor):
    array = np.array(array)
    array[place] *= factor
    return array
