import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import UserError
from research.layers.norms import make_norm
from research.layers.transformer import TransformerLayer, TransformerStack
from tests.layers.random_params import random_params

LAYER = functools.partial(TransformerLayer, num_heads=2, mlp_width=16, cross_attention=True, norm="pre")
X = jax.random.normal(jax.random.key(0), (2, 5, 8)) + 3


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norms_against_numpy(kind, use_bias):
    if kind == "rms" and use_bias:
        with pytest.raises(UserError, match="norm_kind 'rms' has no bias: leave norm_bias out"):
            make_norm(kind, epsilon=0.1, use_bias=True, name="norm")
        return
    norm = make_norm(kind, epsilon=0.1, use_bias=use_bias, name="norm")
    params = random_params(norm, X)
    assert set(params["params"]) == {"scale"} | ({"bias"} if use_bias else set())
    x = np.float64(X)
    if kind == "layer":
        expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 0.1)
    else:
        expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 0.1)
    expected = expected * params["params"]["scale"] + params["params"].get("bias", 0)
    np.testing.assert_allclose(norm.apply(params, X), expected, atol=1e-5)


def test_statistics_are_float32_in_half_precision():
    """Squares of 300 do not fit into float16."""
    norm = make_norm("rms", epsilon=1e-6, use_bias=False, name="norm")
    x = jnp.full((1, 8), 300, jnp.float16)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), norm.init(jax.random.key(0), x))
    np.testing.assert_allclose(norm.apply(half, x), 1, atol=1e-3)
    assert norm.apply(half, x).dtype == jnp.float16


@pytest.mark.parametrize(
    ("fields", "projections", "norms"),
    [
        ({}, True, True),
        ({"use_bias": False}, False, False),
        ({"use_bias": False, "norm_bias": True}, False, True),
        ({"norm_bias": False}, True, False),
        ({"norm_kind": "rms"}, True, False),
        ({"norm_kind": "rms", "use_bias": False, "norm_bias": False}, False, False),
    ],
)
def test_biases_of_projections_and_of_norms(fields, projections, norms):
    """Also of the stack's own norm."""
    stack = TransformerStack(functools.partial(LAYER, **fields), 1, final_norm=True)
    params = jax.eval_shape(stack.init, jax.random.key(0), X, X)["params"]
    names = ("self_attention", "cross_attention", "feed_forward")
    layer = params["layer_0"]
    found = {("bias" in part) for name in names for part in layer[name].values()}
    assert found == {projections}
    assert {("bias" in part) for part in (params["norm"], *(layer[f"{name}_norm"] for name in names))} == {norms}


def test_the_kind_of_norm_reaches_layers_and_stack():
    """RMSNorm does not take the mean away: the same numbers as LayerNorm only without a mean."""
    outputs = {}
    for kind in ("layer", "rms"):
        stack = TransformerStack(functools.partial(LAYER, norm_kind=kind, norm_bias=False), 1, final_norm=True)
        params = random_params(stack, X, X)
        outputs[kind] = stack.apply(params, X, X)
    root = np.sqrt((np.float64(outputs["rms"] / params["params"]["norm"]["scale"]) ** 2).mean(-1))
    np.testing.assert_allclose(root, 1, atol=1e-4)
    assert not np.allclose(outputs["layer"], outputs["rms"], atol=1e-2)
