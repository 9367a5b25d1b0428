import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.analysis import attention
from research.analysis.attention import attention_weights, rollout
from research.errors import UserError
from research.models.gpt import GPT
from research.models.rnn import RNNSeq2Seq
from research.models.seq2seq import Seq2Seq
from tests.layers.random_params import random_params

TINY = {"vocab_size": 11, "num_layers": 2, "width": 8, "num_heads": 4}


def test_rollout_multiplies_half_attention_half_identity():
    random = np.random.default_rng(0)
    layers = {f"layer_{i}": random.dirichlet(np.ones(3), size=(2, 4, 3)).astype(np.float32) for i in range(3)}
    expected = np.eye(3)[None].repeat(2, axis=0)
    for layer in layers.values():
        expected = (layer.mean(axis=1) + np.eye(3)) / 2 @ expected
    found = rollout(layers)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-6)


def test_attention_to_one_token_alone_rolls_out_to_it():
    """Two layers in which all tokens look at token 1: a quarter of a token is left of itself."""
    look = np.zeros((1, 1, 3, 3), np.float32)
    look[..., 1] = 1
    np.testing.assert_allclose(rollout({"a": look, "b": look})[0, 0], [0.25, 0.75, 0.0])


@pytest.mark.parametrize("fields", [{"num_kv_heads": 2}, {"scan": True}, {"positions": "rotary"}], ids=str)
def test_rows_and_heads_of_a_decoder_are_those_of_all(fields):
    model, tokens = GPT(**TINY, max_length=9, **fields), jax.random.randint(jax.random.key(0), (2, 9), 0, 11)
    variables = random_params(model, tokens)
    everything = attention_weights(model, variables, tokens)
    assert [*everything] == ["decoder/layer_0/self_attention", "decoder/layer_1/self_attention"]
    for layer, weights in everything.items():
        np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
        np.testing.assert_array_equal(np.triu(weights, 1), 0)
        some = attention_weights(model, variables, tokens, layers=[layer], heads=[3, 1], rows=[8, 0, 4])
        assert [*some] == [layer]
        np.testing.assert_allclose(some[layer], weights[:, [3, 1]][:, :, [8, 0, 4]], atol=1e-6)


@pytest.mark.parametrize("positions", ["sinusoidal", "shaw", "relative_bias"])
def test_rows_of_a_translation_with_padding_are_those_of_all(positions):
    model = Seq2Seq(**TINY, mlp_width=16, positions=positions)
    inputs = jnp.arange(10).reshape(2, 5), jnp.arange(8).reshape(2, 4), jnp.arange(5) < jnp.array([[5], [3]])
    variables = random_params(model, *inputs)
    everything = attention_weights(model, variables, *inputs)
    assert len(everything) == 6
    some = attention_weights(model, variables, *inputs, rows=[3, 1])
    first = attention_weights(model, variables, *inputs, rows=slice(5))
    for layer, weights in everything.items():
        np.testing.assert_allclose(first[layer], weights[:, :, :5], atol=1e-6)
        np.testing.assert_allclose(some[layer], weights[:, :, [3, 1]], atol=1e-6)
        if "decoder" not in layer or "cross" in layer:
            np.testing.assert_array_equal(weights[1, :, :, 3:], 0)


def test_rows_of_a_recurrent_translation():
    model = RNNSeq2Seq(11, num_layers=1, width=8)
    inputs = jnp.arange(10).reshape(2, 5), jnp.arange(8).reshape(2, 4), jnp.ones((2, 5), bool)
    variables = random_params(model, *inputs)
    ((layer, weights),) = attention_weights(model, variables, *inputs).items()
    np.testing.assert_array_equal(attention_weights(model, variables, *inputs, rows=[2])[layer], weights[:, :, [2]])


def test_a_row_of_a_long_text_needs_no_memory_for_the_others():
    length = 8192
    model, tokens = GPT(**TINY, max_length=length), jnp.zeros((1, length), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
    asked = ("decoder/layer_1/self_attention",), (2,), (5, 8000)
    compiled = attention._weights.lower(model, variables, (tokens,), *asked).compile()
    all_of_a_layer = 4 * TINY["num_heads"] * length**2  # bytes; the model itself needs the weights of a block of rows
    assert compiled.memory_analysis().temp_size_in_bytes < all_of_a_layer / 2


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (
            {"layers": ["decoder/layer_7"]},
            "'decoder/layer_7' is not an attention layer of this model: use one of decoder/",
        ),
        ({"heads": [4]}, "head 4 is not there: this attention layer has 0 to 3"),
        ({"rows": [-1]}, "row -1 is not there: this attention layer has 0 to 8"),
    ],
)
def test_what_is_not_there_is_refused(asked, sentence):
    model, tokens = GPT(**TINY, max_length=9), jnp.zeros((1, 9), jnp.int32)
    with pytest.raises(UserError, match=sentence):
        attention_weights(model, random_params(model, tokens), tokens, **asked)
