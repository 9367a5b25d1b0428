import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.decoding.cache import init_cache
from research.errors import UserError
from research.models.gpt import GPT, SIZES
from tests.layers.random_params import random_params

TOKENS = jnp.array([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])


def tiny(**fields):
    return GPT(**{"vocab_size": 10, "num_layers": 2, "width": 8, "num_heads": 4, "max_length": 8} | fields)


@pytest.mark.parametrize(
    ("size", "parameters"), [("gpt2", 124_439_808), ("gpt2_medium", 354_823_168), ("gpt2_xl", 1_557_611_200)]
)
def test_sizes_have_their_published_parameters(size, parameters):
    params = jax.eval_shape(GPT(50_257, **SIZES[size]).init, jax.random.key(0), TOKENS)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters


def test_rms_norm_in_place_of_layer_norm():
    """The final states have a mean square of 1 and a mean that is not 0, and no norm has a bias."""
    model = tiny(norm_kind="rms", activation="swiglu", positions="rotary", use_bias=False)
    params = model.init(jax.random.key(0), TOKENS)
    states, _ = model.apply(params, TOKENS, method="features")
    np.testing.assert_allclose((np.float64(states) ** 2).mean(-1), 1, atol=0.1)
    assert np.abs(states.mean(-1)).max() > 0.05
    names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    assert "bias" not in names and "scale" in names


@pytest.mark.parametrize(
    "fields", [{}, {"positions": "rotary", "num_kv_heads": 2, "scan": True, "activation": "swiglu"}]
)
def test_nothing_leaks_from_the_future(fields):
    model = tiny(**fields)
    params, apply = random_params(model, TOKENS), jax.jit(model.apply)
    logits = apply(params, TOKENS)
    assert logits.shape == (2, 6, 10) and logits.dtype == jnp.float32
    future = apply(params, TOKENS.at[:, 4:].set(0))
    np.testing.assert_allclose(future[:, :4], logits[:, :4], atol=1e-6)
    assert not np.allclose(future[:, 4:], logits[:, 4:], atol=1e-3)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("scan", [False, True])
def test_cached_decoding_equals_the_uncached_logits(positions, scan):
    model = tiny(positions=positions, scan=scan, num_kv_heads=2)
    params = random_params(model, TOKENS)
    expected = jax.jit(model.apply)(params, TOKENS)

    @jax.jit
    def step(tokens, cache, index):
        logits, state = model.apply({**params, "cache": cache}, tokens, cache_index=index, mutable=["cache"])
        return logits, state["cache"]

    cache, outputs, start = init_cache(model, jnp.zeros((2, 8), jnp.int32)), [], 0
    for size in (3, 1, 1, 1):
        logits, cache = step(TOKENS[:, start : start + size], cache, jnp.int32(start))
        outputs.append(logits)
        start += size
    np.testing.assert_allclose(jnp.concatenate(outputs, axis=1), expected, atol=1e-5)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_texts_packed_into_a_row_do_not_see_each_other(positions):
    model = tiny(positions=positions)
    params = random_params(model, TOKENS)
    packed = model.apply(params, TOKENS, segments=jnp.array([[0, 0, 1, 1, 1, 1], [4, 4, 4, 5, 5, 6]]))
    for row, start, stop in ((0, 0, 2), (0, 2, 6), (1, 0, 3), (1, 3, 5), (1, 5, 6)):
        alone = model.apply(params, TOKENS[row : row + 1, start:stop])
        np.testing.assert_allclose(packed[row : row + 1, start:stop], alone, atol=1e-5)


def test_initial_deviations_are_those_of_gpt2():
    params = tiny(width=128, num_layers=8, vocab_size=300).init(jax.random.key(0), TOKENS)["params"]
    layer = params["decoder"]["layer_3"]
    for kernel, deviation in (
        (params["embedding"]["embedding"], 0.02),
        (layer["self_attention"]["query"]["kernel"], 0.02),
        (layer["feed_forward"]["up"]["kernel"], 0.02),
        (layer["self_attention"]["out"]["kernel"], 0.02 / 4),
        (layer["feed_forward"]["down"]["kernel"], 0.02 / 4),
    ):
        assert float(kernel.std()) == pytest.approx(deviation, rel=0.03)


def test_without_biases_there_are_none():
    params = jax.eval_shape(tiny(use_bias=False).init, jax.random.key(0), TOKENS)
    assert not any("bias" in jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))


def test_half_precision_parameters_make_half_precision_hidden_states():
    for positions in ("learned", "rotary"):
        model = tiny(positions=positions)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), random_params(model, TOKENS))
        logits, state = model.apply(params, TOKENS, capture_intermediates=True)
        assert logits.dtype == jnp.float32
        assert {leaf.dtype for leaf in jax.tree.leaves(state["intermediates"]["decoder"])} == {jnp.dtype("bfloat16")}


def test_dropout_acts_in_training_only():
    model = tiny(dropout=0.5)
    params = random_params(model, TOKENS)
    trained = model.apply(params, TOKENS, train=True, rngs={"dropout": jax.random.key(0)})
    expected = tiny().apply(params, TOKENS)
    assert not np.allclose(trained, expected, atol=1e-2)
    np.testing.assert_allclose(model.apply(params, TOKENS), expected, atol=1e-6)


def test_a_text_longer_than_the_context_is_refused():
    with pytest.raises(UserError, match="length 6 exceeds max_length 4"):
        tiny(max_length=4).init(jax.random.key(0), TOKENS)


def test_without_causality_a_token_sees_what_follows_but_no_padding():
    model = GPT(9, 2, 8, 2, max_length=6, causal=False)
    tokens = jnp.array([[1, 5, 2, 7, 0]])
    variables = model.init(jax.random.key(0), tokens, method="text_states")

    def states(tokens, valid=None):
        return np.asarray(model.apply(variables, tokens, valid, method="text_states"))[0]

    assert np.abs(states(tokens.at[0, 3].set(8))[0] - states(tokens)[0]).max() > 1e-4
    np.testing.assert_allclose(states(tokens, tokens > 0)[:4], states(tokens[:, :4]), atol=1e-5)
    with pytest.raises(UserError, match=r"model\.causal is False, .*: set it to True"):
        model.apply(variables, tokens)
