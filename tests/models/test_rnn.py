"""The LSTM baseline against a float64 version of its equations, and its properties."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.decoding.cache import gather_cache, init_cache
from research.decoding.generate import generate
from research.decoding.sampling import greedy
from research.errors import UserError
from research.models.rnn import RNNSeq2Seq
from tests.layers.random_params import random_params

VOCAB = 11
SOURCE = jnp.array([[3, 4, 5, 6, 7, 8], [9, 10, 3, 0, 0, 0]])
TARGET = jnp.array([[1, 3, 4, 5, 6], [1, 7, 8, 9, 10]])
VALID = SOURCE != 0


def tiny(**fields):
    return RNNSeq2Seq(VOCAB, **{"num_layers": 2, "width": 8} | fields)


def numpy_lstm(gates, cell):
    """One step in float64: gates in the order input, forget, output, candidate; the forget gate starts open."""
    enter, forget, output, candidate = np.split(gates, 4)
    cell = cell / (1 + np.exp(-forget - 1)) + np.tanh(candidate) / (1 + np.exp(-enter))
    return np.tanh(cell) / (1 + np.exp(-output)), cell


def numpy_logits(params, source, target, width, num_layers):
    """One unpadded pair through Luong et al.'s equations, token by token; the attention weights too."""
    x = params["embedding"]["embedding"][source] * width**0.5
    for layer in range(num_layers):
        outputs = []
        for name, order in (("forward", 1), ("backward", -1)):
            lstm = params["encoder"][f"layer_{layer}_{name}"]
            hidden, cell, states = np.zeros(width // 2), np.zeros(width // 2), []
            for vector in x[::order]:
                gates = vector @ lstm["input"]["kernel"] + lstm["input"]["bias"] + hidden @ lstm["recurrent"]
                hidden, cell = numpy_lstm(gates, cell)
                states.append(hidden)
            outputs.append(np.stack(states)[::order])
        x = np.concatenate(outputs, axis=1)
    decoder, memory = params["decoder"], x
    start = memory[0, width // 2 :] @ decoder["start"]["kernel"] + decoder["start"]["bias"]
    hiddens, cells = list(np.tanh(start).reshape(num_layers, width)), [np.zeros(width)] * num_layers
    attended, logits, weights = np.zeros(width), [], []
    for token in target:
        x = np.concatenate([params["embedding"]["embedding"][token] * width**0.5, attended])
        for layer in range(num_layers):
            dense = decoder["step"][f"layer_{layer}"]
            gates = np.concatenate([x, hiddens[layer]]) @ dense["kernel"] + dense["bias"]
            x, cells[layer] = numpy_lstm(gates, cells[layer])
            hiddens[layer] = x
        scores = memory @ decoder["cross_attention"]["key"]["kernel"] @ x / width**0.5
        weights.append(np.exp(scores) / np.exp(scores).sum())
        attended = np.tanh(np.concatenate([weights[-1] @ memory, x]) @ decoder["step"]["combine"]["kernel"])
        logits.append(attended @ params["embedding"]["embedding"].T)
    return np.stack(logits), np.stack(weights)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_equals_the_equations_in_float64(num_layers):
    model = tiny(num_layers=num_layers)
    variables = random_params(model, SOURCE, TARGET, VALID)
    logits, state = model.apply(variables, SOURCE, TARGET, VALID, mutable=["attention"])
    assert logits.shape == (2, 5, VOCAB) and logits.dtype == jnp.float32
    (weights,) = state["attention"]["decoder"]["cross_attention"]["weights"]
    assert weights.shape == (2, 1, 5, 6)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    for row, length in ((0, 6), (1, 3)):  # the second source is padded
        expected, attention = numpy_logits(params, SOURCE[row, :length], TARGET[row], 8, num_layers)
        np.testing.assert_allclose(logits[row], expected, atol=2e-5)
        np.testing.assert_allclose(weights[row, 0, :, :length], attention, atol=1e-5)
        assert not weights[row, 0, :, length:].any()


def test_nothing_leaks_from_the_future_or_from_padding():
    model = tiny()
    params = random_params(model, SOURCE, TARGET, VALID)
    apply = jax.jit(model.apply)
    logits = apply(params, SOURCE, TARGET, VALID)
    future = apply(params, SOURCE, TARGET.at[:, 3:].set(2), VALID)
    np.testing.assert_allclose(future[:, :3], logits[:, :3], atol=1e-6)
    assert not np.allclose(future[:, 3:], logits[:, 3:], atol=1e-3)
    np.testing.assert_allclose(apply(params, jnp.where(VALID, SOURCE, 2), TARGET, VALID), logits, atol=1e-6)
    np.testing.assert_allclose(apply(params, SOURCE[1:, :3], TARGET[1:], VALID[1:, :3]), logits[1:], atol=1e-5)
    for position in (0, 5):  # the first and the last token of the source matter
        changed = apply(params, SOURCE.at[0, position].set(2), TARGET, VALID)
        assert not np.allclose(changed[0], logits[0], atol=1e-3)
    empty = apply(params, SOURCE, TARGET, VALID.at[1].set(False))
    assert np.isfinite(empty).all()


def cached_decode(model, params):
    @jax.jit
    def decode(tokens, cache, index, memory, valid):
        logits, state = model.apply(
            {**params, "cache": cache}, tokens, memory, valid, cache_index=index, method="decode", mutable=["cache"]
        )
        return logits, state["cache"]

    return decode


def test_cached_decoding_equals_the_uncached_logits():
    model = tiny()
    params = random_params(model, SOURCE, TARGET, VALID)
    expected = model.apply(params, SOURCE, TARGET, VALID)
    memory = model.apply(params, SOURCE, VALID, method="encode")
    decode = cached_decode(model, params)
    cache = init_cache(model, jnp.zeros((2, 7), jnp.int32), memory, VALID, method="decode")
    # As `generate` is used: a call that fills the memory, then the start marker once more.
    _, cache = decode(TARGET[:, :1], cache, jnp.int32(0), memory, VALID)
    outputs, start = [], 0
    for size in (2, 1, 1, 1):
        logits, cache = decode(TARGET[:, start : start + size], cache, jnp.int32(start), None, VALID)
        outputs.append(logits)
        start += size
    np.testing.assert_allclose(jnp.concatenate(outputs, axis=1), expected, atol=1e-5)


def test_rows_share_a_memory_and_are_picked_anew_as_in_beam_search():
    model = tiny()
    params = random_params(model, SOURCE, TARGET, VALID)
    memory = model.apply(params, SOURCE, VALID, method="encode")
    # Three rows for each of two sources.
    tokens = jnp.arange(30).reshape(6, 5) % VOCAB
    sources, valid = jnp.repeat(SOURCE, 3, axis=0), jnp.repeat(VALID, 3, axis=0)
    expected = model.apply(params, sources, tokens, valid)
    shared = model.apply(params, tokens, memory, VALID, method="decode")
    np.testing.assert_allclose(shared, expected, atol=1e-5)

    decode = cached_decode(model, params)
    cache = init_cache(model, tokens, memory, VALID, method="decode")
    assert cache["decoder"]["cross_attention"]["cached_value"].shape == (2, 6, 8)
    _, cache = decode(tokens[:, :4], cache, jnp.int32(0), memory, VALID)
    rows = jnp.array([2, 2, 0, 5, 3, 3])
    state = {name: leaf for name, leaf in cache["decoder"].items() if name != "cross_attention"}
    cache = {"decoder": {**gather_cache(state, rows), "cross_attention": cache["decoder"]["cross_attention"]}}
    logits, _ = decode(tokens[rows, 4:], cache, jnp.int32(4), None, VALID)
    np.testing.assert_allclose(logits, expected[rows, 4:], atol=1e-5)


def test_a_decoder_without_memory_is_refused():
    model = tiny()
    params = random_params(model, SOURCE, TARGET, VALID)
    with pytest.raises(ValueError, match="needs `memory`"):
        model.apply(params, TARGET, None, VALID, method="decode")
    with pytest.raises(UserError, match="width 7 is odd"):
        tiny(width=7).init(jax.random.key(0), SOURCE, TARGET, VALID)


@pytest.mark.parametrize("share_embeddings", [True, False])
def test_half_precision_parameters_make_half_precision_hidden_states(share_embeddings):
    model = tiny(share_embeddings=share_embeddings)
    params = random_params(model, SOURCE, TARGET, VALID)
    tables = {"embedding"} if share_embeddings else {"source_embedding", "target_embedding", "output_embedding"}
    assert set(params["params"]) == {"encoder", "decoder", *tables}
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    logits, state = model.apply(half, SOURCE, TARGET, VALID, capture_intermediates=True)
    assert logits.dtype == jnp.float32
    states = (state["intermediates"]["encoder"], state["intermediates"]["decoder"]["__call__"])
    assert {leaf.dtype for leaf in jax.tree.leaves(states)} == {jnp.dtype("bfloat16")}
    np.testing.assert_allclose(logits, model.apply(params, SOURCE, TARGET, VALID), atol=0.3)
    memory = model.apply(half, SOURCE, VALID, method="encode")
    cache = init_cache(model, TARGET, memory, VALID, method="decode")
    cached, _ = cached_decode(model, half)(TARGET, cache, jnp.int32(0), memory, VALID)
    np.testing.assert_allclose(cached, logits, atol=0.1)


def test_dropout_acts_in_training_only():
    model = tiny(dropout=0.5)
    params = random_params(model, SOURCE, TARGET, VALID)

    @jax.jit
    def trained(rng):
        return model.apply(params, SOURCE, TARGET, VALID, train=True, rngs={"dropout": rng})

    first, second = trained(jax.random.key(0)), trained(jax.random.key(1))
    assert not np.allclose(first, second, atol=1e-3)
    np.testing.assert_array_equal(first, trained(jax.random.key(0)))
    expected = tiny(dropout=0.0).apply(params, SOURCE, TARGET, VALID)
    np.testing.assert_allclose(model.apply(params, SOURCE, TARGET, VALID), expected, atol=1e-6)


def test_learns_to_copy():
    model = RNNSeq2Seq(8, num_layers=1, width=32, dropout=0.0)
    generator = np.random.default_rng(0)
    lengths = generator.integers(2, 6, 64)
    source = np.where(np.arange(5) < lengths[:, None], generator.integers(3, 8, (64, 5)), 0)
    labels = np.zeros((64, 6), np.int32)  # the source, then the end token 2
    labels[:, :5] = source
    labels[np.arange(64), lengths] = 2
    target = np.concatenate([np.ones((64, 1), np.int32), np.where(labels == 2, 0, labels)[:, :5]], axis=1)
    source, target, labels = map(jnp.asarray, (source, target, labels))
    params = model.init(jax.random.key(0), source, target, source != 0)
    optimizer = optax.adam(1e-2)

    def loss(params):
        losses = optax.softmax_cross_entropy_with_integer_labels(
            model.apply(params, source, target, source != 0, train=True), labels
        )
        return (losses * (labels != 0)).sum() / (labels != 0).sum()

    @jax.jit
    def train(params, state):
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)
    for _ in range(120):
        params, state, value = train(params, state)
    assert value < 0.1

    # And it writes the copies itself, one token after another.
    decode, valid = cached_decode(model, params), source != 0
    memory = model.apply(params, source, valid, method="encode")
    cache = init_cache(model, jnp.zeros((64, 7), jnp.int32), memory, valid, method="decode")
    start = jnp.ones((64, 1), jnp.int32)
    _, cache = decode(start, cache, jnp.int32(0), memory, valid)
    written = generate(
        lambda tokens, cache, index: decode(tokens, cache, index, None, valid),
        cache,
        start,
        jnp.ones(64, jnp.int32),
        max_length=7,
        end_token=2,
        pad_token=0,
        choose=greedy,
        rng=jax.random.key(0),
    )
    assert (written[:, 1:] == labels).all(axis=1).mean() > 0.95
