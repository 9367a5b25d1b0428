"""Models without a head: what is left is the sum over the other heads."""

import jax
import jax.numpy as jnp
import numpy as np

from research.analysis.attention import attention_weights
from research.analysis.heads import Layer, attention_layers, without_head
from research.layers.attention import MultiHeadAttention
from research.models.gpt import GPT
from tests.layers.random_params import random_params


def test_the_other_heads_are_as_they_were():
    """Against numpy in float64, head by head."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 6)), jnp.float32)
    attention = MultiHeadAttention(num_heads=3)
    variables = random_params(attention, x, deviation=1.0)
    parts = {name: {k: np.float64(v) for k, v in part.items()} for name, part in variables["params"].items()}
    heads = []
    for head in range(3):
        query, key, value = (
            np.float64(x) @ parts[name]["kernel"][:, head] + parts[name]["bias"][head]
            for name in ("query", "key", "value")
        )
        weights = np.exp(query @ key.swapaxes(1, 2) / np.sqrt(2))
        heads.append(weights / weights.sum(-1, keepdims=True) @ value @ parts["out"]["kernel"][head])
    layer = Layer("out/kernel", None, 3)
    for head in range(3):
        expected = sum(each for other, each in enumerate(heads) if other != head) + parts["out"]["bias"]
        got = attention.apply(without_head(variables, layer, head), x)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_layers_are_found_by_their_names_whether_scanned_or_not():
    tokens = jnp.arange(6)[None]
    scanned = GPT(9, num_layers=11, width=8, num_heads=2, max_length=6, scan=True)
    variables = random_params(scanned, tokens, deviation=0.5)
    ((name, stack),) = [(key, part) for key, part in variables["params"].items() if "layers" in part]
    single = {f"layer_{n}": jax.tree.map(lambda leaf, n=n: leaf[n], stack["layers"]) for n in range(11)}
    others = {key: part for key, part in stack.items() if key != "layers"}
    apart = {"params": variables["params"] | {name: others | single}}
    model = scanned.clone(scan=False)
    layers, same = attention_layers(variables["params"]), attention_layers(apart["params"])
    assert [*layers] == [*same] == [*attention_weights(model, apart, tokens)] and len(layers) == 11
    path = [*layers][10]
    assert layers[path].place == 10 and same[path].place is None and layers[path].num_heads == 2
    one = scanned.apply(without_head(variables, layers[path], 1), tokens)
    other = model.apply(without_head(apart, same[path], 1), tokens)
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert np.abs(one - scanned.apply(variables, tokens)).max() > 1e-3
