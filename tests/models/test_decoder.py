import jax
import jax.numpy as jnp
import numpy as np

from research.models.decoder import Decoder
from tests.layers.random_params import random_params

TOKENS = jnp.array([[3, 1, 4, 1, 5], [2, 6, 5, 3, 5]])
MODEL = Decoder(10, num_layers=2, width=8, num_heads=2)


def reference(params, tokens, width=8, heads=2):
    """Sections 3.1 to 3.5 of the paper in float64, without cross-attention; one sequence."""
    p = jax.tree.map(np.float64, params)
    length = len(tokens)
    angles = np.arange(length)[:, None] / 10_000 ** (np.arange(0, width, 2) / width)
    x = p["embedding"]["embedding"][tokens] * np.sqrt(width)
    x += np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, width)

    def dense(x, kernel, axes=1):
        return np.tensordot(x, kernel["kernel"], axes) + kernel["bias"]

    def norm(x, parameters):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * parameters["scale"] + parameters["bias"]

    for layer in (p["decoder"]["layer_0"], p["decoder"]["layer_1"]):
        attention = layer["self_attention"]
        query, key, value = (dense(x, attention[name]) for name in ("query", "key", "value"))
        logits = np.einsum("qhd,khd->hqk", query, key) / np.sqrt(width // heads)
        logits[:, ~np.tri(length, dtype=bool)] = -np.inf
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        attended = np.einsum("hqk,khd->qhd", weights / weights.sum(-1, keepdims=True), value)
        x = norm(x + dense(attended, attention["out"], 2), layer["self_attention_norm"])
        feed_forward = layer["feed_forward"]
        x = norm(
            x + dense(np.maximum(dense(x, feed_forward["up"]), 0), feed_forward["down"]), layer["feed_forward_norm"]
        )
    return x @ p["output_embedding"]["embedding"].T


def test_logits_are_those_of_the_formulas():
    variables = random_params(MODEL, TOKENS)
    logits = MODEL.apply(variables, TOKENS)
    assert logits.shape == (2, 5, 10) and logits.dtype == jnp.float32
    for row in range(2):
        np.testing.assert_allclose(logits[row], reference(variables["params"], np.array(TOKENS[row])), atol=1e-4)


def test_size_of_the_grokking_paper():
    """About 4 · 10^5 parameters without embeddings: two layers of 12 · 128² weights, their biases and norms."""
    params = jax.eval_shape(Decoder(103, 2, 128, 4).init, jax.random.key(0), TOKENS)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params["decoder"])) == 2 * (12 * 128**2 + 9 * 128 + 4 * 128)


def test_dropout_acts_in_training_only():
    model, variables = MODEL.clone(dropout=0.5), random_params(MODEL, TOKENS)
    np.testing.assert_array_equal(model.apply(variables, TOKENS), MODEL.apply(variables, TOKENS))
    trained = model.apply(variables, TOKENS, train=True, rngs={"dropout": jax.random.key(0)})
    assert not np.allclose(trained, MODEL.apply(variables, TOKENS), atol=1e-2)
