import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.analysis.attention import weights_of
from research.errors import UserError
from research.layers import dot_product
from research.layers.attention import MultiHeadAttention
from research.layers.dot_product import attention_weights, dot_product_attention
from research.layers.masks import causal_mask, padding_mask, segment_mask, window_mask

BATCH, LENGTH, HEADS, SIZE, WIDTH = 2, 5, 4, 4, 6


def softmax(logits):
    exponent = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponent / exponent.sum(axis=-1, keepdims=True)


def reference_attention(query, key, value, mask=None, bias=None, key_relations=0.0, value_relations=None):
    """Equation 1 in float64, head by head; relations are [queries, keys, size] as Shaw et al. write them."""
    batch, queries, heads, size = query.shape
    keys, kv_heads = key.shape[1:3]
    shape = (batch, heads, queries, keys)
    output, all_weights = np.zeros((batch, queries, heads, value.shape[-1])), np.zeros(shape)
    for row in range(batch):
        for head in range(heads):
            kv_head = head // (heads // kv_heads)
            related = key[row, :, kv_head][None] + key_relations
            logits = (query[row, :, head][:, None] * related).sum(-1) / np.sqrt(size)
            if bias is not None:
                logits = logits + np.broadcast_to(bias, shape)[row, head]
            if mask is not None:
                allowed = np.broadcast_to(mask, shape)[row, head]
                empty = ~allowed.any(axis=-1, keepdims=True)
                # A row with nothing to attend to is uniform.
                logits = np.where(empty, 0.0, np.where(allowed, logits, -np.inf))
            weights = all_weights[row, head] = softmax(logits)
            output[row, :, head] = weights @ value[row, :, kv_head]
            if value_relations is not None:
                output[row, :, head] += (weights[..., None] * value_relations).sum(1)
    return output, all_weights


def numerical_gradients(function, arrays, step=1e-5):
    """Central differences of a scalar function of a dict of float64 arrays, coordinate by coordinate."""
    gradients = {name: np.zeros_like(array) for name, array in arrays.items()}
    for name, array in arrays.items():
        for index in np.ndindex(array.shape):
            kept = array[index]
            array[index] = kept + step
            above = function(arrays)
            array[index] = kept - step
            gradients[name][index] = (above - function(arrays)) / (2 * step)
            array[index] = kept
    return gradients


def assert_same(function, reference, arrays):
    """Values and gradients of a float32 function equal those of a float64 reference to 1e-5."""
    arrays = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    inputs = {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}
    expected = reference(arrays)
    weight = np.random.default_rng(9).normal(size=expected.shape)

    def loss(inputs):
        output = function(inputs)
        return (output * weight).sum(), output

    gradients, output = jax.jit(jax.grad(loss, has_aux=True))(inputs)
    np.testing.assert_allclose(output, expected, atol=1e-5, rtol=1e-5)
    for name, gradient in numerical_gradients(lambda arrays: (reference(arrays) * weight).sum(), arrays).items():
        np.testing.assert_allclose(gradients[name], gradient, atol=1e-5, rtol=1e-5, err_msg=name)


def random_inputs(kv_heads, seed=0):
    generator = np.random.default_rng(seed)
    return {
        "query": generator.normal(size=(BATCH, LENGTH, HEADS, SIZE)),
        "key": generator.normal(size=(BATCH, LENGTH, kv_heads, SIZE)),
        "value": generator.normal(size=(BATCH, LENGTH, kv_heads, SIZE)),
    }


VALID = jnp.array([[True] * 5, [True] * 3 + [False] * 2])
SEGMENTS = jnp.array([[0, 0, 1, 1, 1], [0, 1, 1, 2, 2]])
MASKS = {
    "none": None,
    "causal": causal_mask(LENGTH),
    "padding": padding_mask(VALID),
    "segments": segment_mask(SEGMENTS, SEGMENTS),
    "window": window_mask(LENGTH, 1),
    "causal-padding": causal_mask(LENGTH) & padding_mask(VALID),
    "nothing-allowed": causal_mask(LENGTH) & (jnp.arange(LENGTH) != 0)[None, None, None],
    "per-head": jnp.asarray(np.random.default_rng(3).random((BATCH, HEADS, LENGTH, LENGTH)) < 0.6),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_values_and_gradients_under_every_mask(mask, kv_heads):
    mask = MASKS[mask]
    assert_same(
        lambda arrays: dot_product_attention(**arrays, mask=mask),
        lambda arrays: reference_attention(**arrays, mask=None if mask is None else np.asarray(mask))[0],
        random_inputs(kv_heads),
    )


@pytest.mark.parametrize("shape", [(1, HEADS, LENGTH, LENGTH), (BATCH, 1, 1, LENGTH), (BATCH, HEADS, LENGTH, LENGTH)])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_values_and_gradients_with_a_bias(shape, kv_heads):
    mask = MASKS["causal-padding"]
    assert_same(
        lambda arrays: dot_product_attention(**arrays, mask=mask),
        lambda arrays: reference_attention(**arrays, mask=np.asarray(mask))[0],
        {**random_inputs(kv_heads), "bias": np.random.default_rng(4).normal(size=shape)},
    )


@pytest.mark.parametrize("mask", [*MASKS, "causal alone"])
@pytest.mark.parametrize("biased", [False, True])
def test_long_sequences_are_computed_some_queries_at_a_time(monkeypatch, mask, biased):
    for name, value in {"LONG": LENGTH - 2, "BLOCK": 3}.items():
        monkeypatch.setattr(dot_product, name, value)
    causal = mask == "causal alone"
    expected = MASKS["causal" if causal else mask]
    bias = {"bias": np.random.default_rng(4).normal(size=(1, HEADS, LENGTH, LENGTH))} if biased else {}
    assert_same(
        lambda arrays: dot_product_attention(**arrays, mask=None if causal else MASKS[mask], causal=causal),
        lambda arrays: reference_attention(**arrays, mask=None if expected is None else np.asarray(expected))[0],
        random_inputs(2) | bias,
    )


def test_a_fully_masked_row_is_the_mean_of_the_values():
    inputs = {name: jnp.asarray(array, jnp.float32) for name, array in random_inputs(4).items()}
    output = dot_product_attention(**inputs, mask=MASKS["nothing-allowed"])
    np.testing.assert_allclose(output[:, 0], inputs["value"].mean(axis=1), atol=1e-6)


def test_half_precision_has_a_float32_softmax():
    inputs = {name: jnp.asarray(array, jnp.bfloat16) for name, array in random_inputs(2).items()}
    weights = attention_weights(inputs["query"], inputs["key"])
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-6)
    output = dot_product_attention(**inputs)
    assert output.dtype == jnp.bfloat16
    exact, _ = reference_attention(**{name: np.asarray(array, np.float64) for name, array in inputs.items()})
    np.testing.assert_allclose(np.asarray(output, np.float64), exact, atol=0.03)


def test_dropout_leaves_out_weights_and_scales_the_rest():
    inputs = {name: jnp.asarray(array, jnp.float32) for name, array in random_inputs(4).items()}
    # With unit vectors as values the output is the weights themselves.
    inputs["value"] = jnp.broadcast_to(jnp.eye(LENGTH)[None, :, None], (BATCH, LENGTH, HEADS, LENGTH))
    weights = dot_product_attention(**inputs)
    dropped = jax.vmap(lambda rng: dot_product_attention(**inputs, dropout=0.25, dropout_rng=rng))(
        jax.random.split(jax.random.key(0), 400)
    )
    scale = dropped / weights
    np.testing.assert_allclose(scale[scale != 0], 1 / 0.75, rtol=1e-5)
    assert abs((scale == 0).mean() - 0.25) < 0.01


# --- the module ---


def project(x, params, name):
    return np.einsum("blw,whd->blhd", x, params[f"{name}/kernel"]) + params[f"{name}/bias"]


def rotate(x, positions):
    """Rotary positions as products of complex numbers."""
    size = x.shape[-1]
    angles = positions[..., None] * 10_000.0 ** (-2 * np.arange(size // 2) / size)
    turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * np.broadcast_to(angles, (*x.shape[:2], size // 2)))[
        :, :, None
    ]
    return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)


def reference_module(arrays, position, max_distance=2, mask=None, bias=None, positions=None):
    x = arrays["x"]
    memory = arrays.get("memory", x)
    query, key, value = project(x, arrays, "query"), project(memory, arrays, "key"), project(memory, arrays, "value")
    relations = {}
    if position == "rotary":
        positions = np.arange(x.shape[1]) if positions is None else positions
        query, key = rotate(query, positions), rotate(key, positions)
    if position == "shaw":
        distance = np.arange(x.shape[1])[None] - np.arange(x.shape[1])[:, None]
        index = np.clip(distance, -max_distance, max_distance) + max_distance
        relations = {
            "key_relations": arrays["relative_key"][index],
            "value_relations": arrays["relative_value"][index],
        }
    attended, weights = reference_attention(query, key, value, mask, bias, **relations)
    return np.einsum("blhd,hdw->blw", attended, arrays["out/kernel"]) + arrays["out/bias"], weights


def flat(params):
    return {
        "/".join(entry.key for entry in path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }


def nested(arrays):
    params = {}
    for name, array in arrays.items():
        *outer, last = name.split("/")
        (params.setdefault(outer[0], {}) if outer else params)[last] = array
    return params


def make(module, length=LENGTH, memory_length=None, seed=0):
    """A module with random parameters (biases too) and inputs, as flat arrays."""
    generator = np.random.default_rng(seed)
    arrays = {"x": generator.normal(size=(BATCH, length, WIDTH))}
    if memory_length:
        arrays["memory"] = generator.normal(size=(BATCH, memory_length, WIDTH))
    inputs = [jnp.asarray(array, jnp.float32) for array in arrays.values()]
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    return arrays | {name: 0.5 * generator.normal(size=leaf.shape) for name, leaf in flat(shapes).items()}


def apply(module, arrays, **kwargs):
    arrays = {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}
    inputs = [arrays.pop(name) for name in ("x", "memory") if name in arrays]
    return module.apply({"params": nested(arrays)}, *inputs, **kwargs)


@pytest.mark.parametrize("position", ["none", "rotary", "shaw"])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_self_attention_values_and_gradients(position, kv_heads, masked):
    module = MultiHeadAttention(HEADS, head_size=2, num_kv_heads=kv_heads, position=position, max_distance=2)
    mask = MASKS["causal-padding"] if masked else None
    bias = np.random.default_rng(4).normal(size=(1, HEADS, LENGTH, LENGTH)) if masked else None
    options = {"mask": mask, "bias": None if bias is None else jnp.asarray(bias, jnp.float32)}
    assert_same(
        lambda arrays: apply(module, arrays, **options),
        lambda arrays: reference_module(arrays, position, mask=None if mask is None else np.asarray(mask), bias=bias)[
            0
        ],
        make(module),
    )


def test_cross_attention_values_and_gradients():
    module = MultiHeadAttention(2, head_size=4, value_size=3, num_kv_heads=1, cross=True)
    mask = padding_mask(jnp.array([[True] * 3, [True, False, False]]))
    assert_same(
        lambda arrays: apply(module, arrays, mask=mask),
        lambda arrays: reference_module(arrays, "none", mask=np.asarray(mask))[0],
        make(module, memory_length=3),
    )


@pytest.mark.parametrize("positions", [np.array([3, 1, 4, 1, 5]), np.array([[0, 1, 0, 1, 2], [0, 0, 1, 2, 3]])])
def test_rotary_follows_the_positions_it_is_given(positions):
    module = MultiHeadAttention(HEADS, head_size=4, position="rotary")
    arrays = make(module)
    expected, _ = reference_module(arrays, "rotary", positions=positions)
    np.testing.assert_allclose(apply(module, arrays, positions=jnp.asarray(positions)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("position", ["none", "rotary", "shaw"])
def test_nothing_leaks_from_the_future_or_from_padding(position):
    module = MultiHeadAttention(HEADS, head_size=2, position=position, max_distance=2)
    arrays = make(module)
    causal, padding = causal_mask(LENGTH), padding_mask(jnp.arange(LENGTH)[None] < jnp.array([[3], [3]]))
    perturbed = arrays | {"x": arrays["x"] + 100 * (np.arange(LENGTH) >= 3)[None, :, None]}
    for mask in (causal, padding):
        before, after = apply(module, arrays, mask=mask), apply(module, perturbed, mask=mask)
        np.testing.assert_array_equal(before[:, :3], after[:, :3])
        assert not np.allclose(before[:, 3:], after[:, 3:])


@pytest.mark.parametrize("position", ["none", "rotary", "shaw"])
@pytest.mark.parametrize("kv_heads", [4, 1])
def test_cached_chunks_equal_one_causal_call(position, kv_heads):
    module = MultiHeadAttention(HEADS, head_size=2, num_kv_heads=kv_heads, position=position, max_distance=2)
    arrays = make(module, length=7)
    valid = jnp.arange(7) != 1
    expected = apply(module, arrays, mask=causal_mask(7) & valid)
    params = {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}
    x, params = params.pop("x"), nested(params)
    _, state = module.apply({"params": params}, jnp.zeros_like(x), cache_index=0, mutable=["cache"])
    assert jax.tree.map(jnp.shape, state["cache"]) == {
        name: (BATCH, 7, kv_heads, 2) for name in ("cached_key", "cached_value")
    }
    start = 0
    for size in (3, 1, 1, 2):
        chunk = x[:, start : start + size]
        output, state = module.apply(
            {"params": params, **state}, chunk, mask=valid[None, None, None], cache_index=start, mutable=["cache"]
        )
        np.testing.assert_allclose(output, expected[:, start : start + size], atol=1e-5)
        start += size


def test_cross_attention_reads_the_memory_from_the_cache():
    module = MultiHeadAttention(HEADS, head_size=2, cross=True)
    arrays = make(module, memory_length=3)
    expected = apply(module, arrays)
    params = {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}
    x, memory, params = params.pop("x"), params.pop("memory"), nested(params)
    output, state = module.apply({"params": params}, x, memory, cache_index=0, mutable=["cache"])
    np.testing.assert_allclose(output, expected, atol=1e-5)
    np.testing.assert_allclose(
        module.apply({"params": params, **state}, x[:, 2:], cache_index=2), expected[:, 2:], atol=1e-5
    )
    with pytest.raises(ValueError, match="needs `memory`"):
        module.apply({"params": params}, x, cache_index=2, mutable=["cache"])


@pytest.mark.parametrize("position", ["none", "rotary", "shaw"])
def test_weights_come_out_on_request_only(position):
    module = MultiHeadAttention(HEADS, head_size=2, num_kv_heads=2, position=position, max_distance=2, dropout=0.5)
    arrays, mask = make(module), MASKS["causal-padding"]
    expected, weights = reference_module(arrays, position, mask=np.asarray(mask))
    output, state = apply(module, arrays, mask=mask, mutable=["attention"])
    np.testing.assert_allclose(output, expected, atol=1e-5)
    np.testing.assert_allclose(weights_of(state["attention"]["inputs"][0]), weights, atol=1e-5)
    # Before dropout.
    _, state = apply(module, arrays, mask=mask, train=True, rngs={"dropout": jax.random.key(1)}, mutable=["attention"])
    (given,) = state["attention"]["inputs"]
    np.testing.assert_allclose(weights_of(given), weights, atol=1e-5)
    some = weights_of(given, heads=(3, 0), rows=(4, 2))
    np.testing.assert_allclose(some, weights[:, [3, 0]][:, :, [4, 2]], atol=1e-5)
    x = jnp.asarray(arrays["x"], jnp.float32)
    assert set(module.init(jax.random.key(0), x)) == {"params"}


def test_dropout_acts_in_training_only():
    module = MultiHeadAttention(HEADS, head_size=2, dropout=0.5)
    arrays = make(module)
    first, second = (apply(module, arrays, train=True, rngs={"dropout": jax.random.key(seed)}) for seed in (0, 1))
    assert not np.allclose(first, second)
    np.testing.assert_allclose(apply(module, arrays), reference_module(arrays, "none")[0], atol=1e-5)


def test_shaw_makes_no_array_of_heads_queries_keys_and_sizes():
    module = MultiHeadAttention(8, head_size=32, position="shaw", max_distance=4)
    x = jnp.zeros((2, 24, 16))
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    jaxpr = jax.make_jaxpr(lambda variables: module.apply(variables, x))(variables)
    largest = max(variable.aval.size for equation in jaxpr.eqns for variable in equation.outvars)
    assert largest < 24 * 24 * 32


def test_kernels_are_xavier_uniform_over_the_flat_matrix():
    module = MultiHeadAttention(8, head_size=16)
    params = module.init(jax.random.key(0), jnp.zeros((1, 2, 64)))["params"]
    assert params["query"]["kernel"].shape == (64, 8, 16) and params["out"]["kernel"].shape == (8, 16, 64)
    limit = np.sqrt(6 / (64 + 128))
    for name in ("query", "key", "value", "out"):
        assert 0.99 * limit < abs(params[name]["kernel"]).max() <= limit
        assert not params[name]["bias"].any()


@pytest.mark.parametrize(
    ("fields", "width", "message"),
    [
        ({"num_heads": 8, "num_kv_heads": 3}, 16, "num_heads 8 is not divisible by num_kv_heads 3: use 1, 2, 4 or 8"),
        ({"num_heads": 5}, 6, "width 6 is not divisible by num_heads 5: use 1, 2, 3 or 6 heads, or set head_size"),
        ({"num_heads": 2, "position": "rotary"}, 6, "head size 3 is odd: rotary positions need an even one"),
    ],
)
def test_fields_that_do_not_fit_are_named(fields, width, message):
    with pytest.raises(UserError, match=message):
        MultiHeadAttention(**fields).init(jax.random.key(0), jnp.zeros((1, 2, width)))


def test_memory_grows_with_the_length_alone():
    def temporary(length):
        def gradients(query, key, value, upstream):
            attend = functools.partial(dot_product_attention, causal=True)
            return jax.vjp(attend, query, key, value)[1](upstream)

        arrays = [jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32)] * 4
        return jax.jit(gradients).lower(*arrays).compile().memory_analysis().temp_size_in_bytes

    assert temporary(16_384) < 2.1 * temporary(8192)
