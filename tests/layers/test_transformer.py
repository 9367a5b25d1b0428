import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.analysis.attention import attention_weights
from research.layers.attention import MultiHeadAttention
from research.layers.feed_forward import FeedForward
from research.layers.masks import causal_mask, padding_mask
from research.layers.transformer import TransformerLayer, TransformerStack, drop_branch
from tests.layers.random_params import random_params

WIDTH = 8
LAYER = functools.partial(TransformerLayer, num_heads=2, mlp_width=16)


def inputs(seed=0, length=5, memory_length=3):
    first, second = jax.random.split(jax.random.key(seed))
    return jax.random.normal(first, (2, length, WIDTH)), jax.random.normal(second, (2, memory_length, WIDTH))


def layer_norm(x, params, epsilon):
    x = np.asarray(x, np.float64)
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
    return normal * params["scale"] + params["bias"]


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_a_layer_is_residuals_and_norms_around_its_parts(norm):
    module = LAYER(norm=norm, norm_epsilon=0.1, cross_attention=True, activation="gelu")
    x, memory = inputs()
    params = random_params(module, x, memory)["params"]
    mask, memory_mask = causal_mask(5), padding_mask(jnp.array([[True] * 3, [True, False, False]]))
    output = module.apply({"params": params}, x, memory, mask=mask, memory_mask=memory_mask)

    def part(module, name, *args, **kwargs):
        return lambda x: module.apply({"params": params[name]}, jnp.float32(x), *args, **kwargs)

    parts = {
        "self_attention": part(MultiHeadAttention(2), "self_attention", mask=mask),
        "cross_attention": part(MultiHeadAttention(2, cross=True), "cross_attention", memory, mask=memory_mask),
        "feed_forward": part(FeedForward(16, "gelu"), "feed_forward"),
    }
    for name, function in parts.items():
        normalise = functools.partial(layer_norm, params=params[f"{name}_norm"], epsilon=0.1)
        x = normalise(x + function(x)) if norm == "post" else x + function(normalise(x))
    np.testing.assert_allclose(output, x, atol=2e-5)


def test_embeddings_reach_every_attention_of_every_layer():
    """A stack in which nothing else has a position is the same as its layers by hand, scanned or not."""
    layer = functools.partial(LAYER, cross_attention=True)
    x, memory = inputs()
    embeddings = {
        "embedding": jax.random.normal(jax.random.key(7), (2, 5, WIDTH)),
        "memory_embedding": jax.random.normal(jax.random.key(8), (1, 3, WIDTH)),
    }
    params = random_params(TransformerStack(layer, 2), x, memory)["params"]
    outputs = {}
    for scan in (False, True):
        given = restacked(params, 2) if scan else params
        outputs[scan] = TransformerStack(layer, 2, scan=scan).apply({"params": given}, x, memory, **embeddings)
    for name in ("layer_0", "layer_1"):
        p = params[name]
        own = {"query_embedding": embeddings["embedding"], "key_embedding": embeddings["embedding"]}
        x = x + MultiHeadAttention(2).apply({"params": p["self_attention"]}, x, **own)
        x = jnp.float32(layer_norm(x, p["self_attention_norm"], 1e-6))
        own["key_embedding"] = embeddings["memory_embedding"]
        x = x + MultiHeadAttention(2, cross=True).apply({"params": p["cross_attention"]}, x, memory, **own)
        x = jnp.float32(layer_norm(x, p["cross_attention_norm"], 1e-6))
        x = x + FeedForward(16).apply({"params": p["feed_forward"]}, x)
        x = jnp.float32(layer_norm(x, p["feed_forward_norm"], 1e-6))
    np.testing.assert_allclose(outputs[False], x, atol=2e-5)
    np.testing.assert_allclose(outputs[True], x, atol=2e-5)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("remat", ["none", "full"])
def test_every_layers_output_under_the_final_norm(scan, remat):
    """What shorter stacks of the same layers give; gradients flow from each output to the layers below it alone."""
    layer = functools.partial(LAYER, norm="pre")
    x, _ = inputs()
    params = random_params(TransformerStack(layer, 3, final_norm=True), x)["params"]
    given = restacked(params, 3) if scan else params
    stack = TransformerStack(layer, 3, final_norm=True, scan=scan, remat=remat)
    outputs = stack.apply({"params": given}, x, every_layer=True)
    assert outputs.shape == (3, *x.shape)
    for depth in (1, 2, 3):
        shorter = TransformerStack(layer, depth, final_norm=True).apply({"params": params}, x)
        np.testing.assert_allclose(outputs[depth - 1], shorter, atol=1e-5)
    np.testing.assert_allclose(outputs[2], stack.apply({"params": given}, x), atol=1e-6)
    second = jax.grad(lambda p: jnp.sin(stack.apply({"params": p}, x, every_layer=True)[1]).sum())(given)
    sizes = [
        sum(abs(leaf).sum() for leaf in jax.tree.leaves(jax.tree.map(lambda a, n=n: a[n], second["layers"])))
        if scan
        else sum(abs(leaf).sum() for leaf in jax.tree.leaves(second[f"layer_{n}"]))
        for n in range(3)
    ]
    assert min(sizes[:2]) > 1e-3 and sizes[2] == 0


def test_nothing_more_is_kept_without_every_layer():
    """The scan of a plain call has no output for each layer."""
    x, _ = inputs()
    stack = TransformerStack(LAYER, 3, scan=True)
    variables = jax.eval_shape(stack.init, jax.random.key(0), x)
    largest = {}
    for every in (False, True):
        jaxpr = jax.make_jaxpr(lambda v, every=every: stack.apply(v, x, every_layer=every))(variables)
        (scan,) = [equation for equation in jaxpr.eqns if equation.primitive.name == "scan"]
        largest[every] = max(variable.aval.ndim for variable in scan.outvars)
    assert largest == {False: 3, True: 4}


def restacked(params, num_layers):
    """Parameters of an unrolled stack as the scanned one wants them."""
    params = dict(params)
    layers = [params.pop(f"layer_{index}") for index in range(num_layers)]
    return params | {"layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)}


def test_scan_and_remat_change_no_number():
    layer = functools.partial(LAYER, norm="pre", cross_attention=True)
    make = functools.partial(TransformerStack, layer, 2, final_norm=True, relative_bias="bidirectional")
    x, memory = inputs()
    params = random_params(make(), x, memory)["params"]
    assert set(params) == {"layer_0", "layer_1", "norm", "relative_bias"}

    def run(stack, params):
        def loss(params, x, memory):
            return jnp.sin(stack.apply({"params": params}, x, memory)).sum()

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(params, x, memory)

    value, (gradients, *others) = run(make(), params)
    for scan, remat in ((False, "full"), (True, "none"), (True, "matmuls")):
        given, expected = (restacked(tree, 2) if scan else tree for tree in (params, gradients))
        stack = make(scan=scan, remat=remat)
        shapes = jax.eval_shape(stack.init, jax.random.key(0), x, memory)["params"]
        assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, given)
        other_value, other = run(stack, given)
        np.testing.assert_allclose(other_value, value, rtol=1e-5)
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-4), other, (expected, *others))


def test_remat_computes_again_with_the_same_dropout():
    layer = functools.partial(LAYER, dropout=0.2, attention_dropout=0.2, activation_dropout=0.2)
    x, _ = inputs()
    params = random_params(TransformerStack(layer, 2), x)["params"]

    def gradients(remat):
        stack = TransformerStack(layer, 2, stochastic_depth=0.3, remat=remat)
        rngs = {"dropout": jax.random.key(3)}

        def loss(params):
            return jnp.sin(stack.apply({"params": params}, x, train=True, rngs=rngs)).sum()

        return jax.jit(jax.grad(loss))(params)

    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), gradients("full"), gradients("none"))


def test_remat_keeps_less():
    x, _ = inputs()

    def kept(remat):
        stack = TransformerStack(LAYER, 2, remat=remat)
        _, backward = jax.vjp(lambda params: stack.apply(params, x), random_params(stack, x))
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    assert kept("full") < kept("matmuls") < kept("none")
    assert kept("full") < 0.7 * kept("none")


class Noise(nn.Module):
    """Stands in for a layer: adds what it is given to see what reaches which layer."""

    @nn.compact
    def __call__(self, x, memory, *, drop_rate, train, **_):
        noise = jax.random.uniform(self.make_rng("dropout"), x.shape)
        self.sow("attention", "noise", noise)
        return 10 * x + (0 if drop_rate is None else drop_rate)


@pytest.mark.parametrize("scan", [False, True])
def test_every_layer_draws_its_own_noise_and_rates_grow_linearly(scan):
    stack = TransformerStack(Noise, 3, stochastic_depth=0.4, scan=scan)
    x, rngs = jnp.zeros((2, 1, 4)), {"dropout": jax.random.key(0)}
    output, state = stack.apply({}, x, train=True, rngs=rngs, mutable=["attention"])
    np.testing.assert_allclose(output, (0.0 * 10 + 0.2) * 10 + 0.4, rtol=1e-6)
    attention = state["attention"]
    noise = attention["layers"]["noise"][0] if scan else [attention[f"layer_{i}"]["noise"][0] for i in range(3)]
    assert len({float(layer[0, 0, 0]) for layer in noise}) == 3
    np.testing.assert_array_equal(stack.apply({}, x, rngs=rngs), 0)


def test_stochastic_depth_drops_whole_examples():
    dropped = drop_branch(jnp.ones((4000, 2, 3)), jnp.float32(0.25), jax.random.key(0))
    assert set(np.unique(dropped).round(5)) == {0.0, np.float32(4 / 3).round(5)}
    np.testing.assert_array_equal(dropped.min(axis=(1, 2)), dropped.max(axis=(1, 2)))
    assert float((dropped == 0).mean()) == pytest.approx(0.25, abs=0.02)
    assert drop_branch(jnp.ones((4, 2), jnp.bfloat16), jnp.float32(0.5), jax.random.key(0)).dtype == jnp.bfloat16


def test_a_layer_without_its_branches_is_the_identity():
    module = LAYER(norm="pre")
    x, _ = inputs()
    params = random_params(module, x)
    rngs = {"dropout": jax.random.key(0)}
    np.testing.assert_array_equal(module.apply(params, x, drop_rate=jnp.float32(1 - 1e-7), train=True, rngs=rngs), x)


@pytest.mark.parametrize("field", ["dropout", "attention_dropout", "activation_dropout"])
def test_each_dropout_acts_in_training_only(field):
    module, plain = LAYER(**{field: 0.5}), LAYER()
    x, _ = inputs()
    params = random_params(module, x)
    trained = module.apply(params, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert not np.allclose(trained, plain.apply(params, x), atol=1e-3)
    np.testing.assert_array_equal(module.apply(params, x), plain.apply(params, x))


@pytest.mark.parametrize("scan", [False, True])
def test_attention_weights_of_every_layer(scan):
    stack = TransformerStack(functools.partial(LAYER, cross_attention=True), 2, scan=scan)
    x, memory = inputs()
    params = random_params(stack, x, memory)
    assert set(jax.eval_shape(stack.init, jax.random.key(0), x, memory)) == {"params"}
    shapes = {path: weights.shape for path, weights in attention_weights(stack, params, x, memory).items()}
    assert shapes == {
        "layer_0/cross_attention": (2, 2, 5, 3),
        "layer_0/self_attention": (2, 2, 5, 5),
        "layer_1/cross_attention": (2, 2, 5, 3),
        "layer_1/self_attention": (2, 2, 5, 5),
    }
