import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.layers.feed_forward import FeedForward


def normal_distribution(x):
    return 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


FUNCTIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * normal_distribution(x),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "swiglu": lambda x: x / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_against_the_formula(activation):
    module, generator = FeedForward(8, activation), np.random.default_rng(0)
    x = generator.normal(size=(2, 3, 4))
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((2, 3, 4)))["params"]
    assert set(shapes) == {"up", "down"} | ({"gate"} if activation == "swiglu" else set())
    params = jax.tree.map(lambda leaf: generator.normal(size=leaf.shape), shapes)

    def dense(name, x):
        return x @ params[name]["kernel"] + params[name]["bias"]

    if activation == "swiglu":
        hidden = dense("up", x) * FUNCTIONS[activation](dense("gate", x))
    else:
        hidden = FUNCTIONS[activation](dense("up", x))
    output = module.apply({"params": jax.tree.map(jnp.float32, params)}, jnp.float32(x))
    np.testing.assert_allclose(output, dense("down", hidden), atol=1e-5, rtol=1e-5)


def test_dropout_on_the_hidden_layer():
    module, x = FeedForward(1000, dropout=0.5), jnp.ones((1, 1))
    ones = {"up": {"kernel": jnp.ones((1, 1000)), "bias": jnp.zeros(1000)}}
    ones["down"] = {"kernel": jnp.full((1000, 1), 1e-3), "bias": jnp.zeros(1)}
    assert module.apply({"params": ones}, x).item() == pytest.approx(1.0)
    dropped = module.apply({"params": ones}, x, train=True, rngs={"dropout": jax.random.key(0)}).item()
    assert dropped != pytest.approx(1.0, abs=1e-4) and dropped == pytest.approx(1.0, abs=0.2)
