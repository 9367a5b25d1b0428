import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import UserError
from research.models.bert import BERT, SIZES, sentence_vectors
from tests.layers.random_params import random_params

TOKENS = jnp.array([[2, 5, 6, 3, 0, 0], [2, 7, 8, 9, 5, 3]])
VALID = TOKENS > 0


def tiny(**overrides):
    fields = {"vocab_size": 10, "num_layers": 2, "width": 8, "num_heads": 2, "mlp_width": 16, "max_length": 8}
    return BERT(**fields | overrides)


@pytest.mark.parametrize(
    ("head", "millions"), [("masked", 109.514), ("pretraining", 110.106), ("pooler", 109.482), ("none", 108.892)]
)
def test_parameters_of_bert_base(head, millions):
    """Those of transformers' BertForMaskedLM, BertForPreTraining, and of BertModel with and without its pooler."""
    params = jax.eval_shape(BERT(30522, head=head).init, jax.random.key(0), TOKENS)["params"]
    assert round(sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6, 3) == millions


def test_parameters_of_minilm():
    """22,713,216 numbers in the published file, with its pooler."""
    params = jax.eval_shape(BERT(30522, head="pooler", **SIZES["minilm"]).init, jax.random.key(0), TOKENS)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 22_713_216


@pytest.mark.parametrize("scan", [False, True])
def test_padding_changes_nothing(scan):
    model = tiny(scan=scan)
    params = random_params(model, TOKENS)
    states = model.apply(params, TOKENS, VALID)
    alone = model.apply(params, TOKENS[:1, :4], VALID[:1, :4])
    np.testing.assert_allclose(states[:1, :4], alone, atol=1e-5)
    assert not np.allclose(model.apply(params, TOKENS)[:1, :4], alone, atol=1e-3)
    np.testing.assert_array_equal(model.apply(params, TOKENS, VALID, method="hidden_states")[-1], states)


def test_segments_and_positions_are_added():
    """By hand, for the embeddings: what the encoder is given is their sum under a norm."""
    model = tiny(first_position=2, dropout=0.0)
    params = random_params(model, TOKENS)
    p = jax.tree.map(np.float64, params["params"])
    segments = jnp.array([[0, 0, 1, 1, 0, 0]] * 2)
    _, state = model.apply(params, TOKENS, VALID, segments, capture_intermediates=True)
    total = p["embedding"]["embedding"][TOKENS] + p["segment_embedding"]["embedding"][segments]
    total += p["position_embedding"]["embedding"][2:8]
    normed = (total - total.mean(-1, keepdims=True)) / np.sqrt(total.var(-1, keepdims=True) + 1e-12)
    expected = normed * p["embedding_norm"]["scale"] + p["embedding_norm"]["bias"]
    np.testing.assert_allclose(state["intermediates"]["embedding_norm"]["__call__"][0], expected, atol=1e-4)


def test_heads():
    model = tiny(head="pretraining")
    params = random_params(model, TOKENS)
    tokens, following = model.apply(params, TOKENS, VALID, method="pretraining")
    pooled = model.apply(params, TOKENS, VALID, method="pooled")
    assert tokens.shape == (2, 6, 10) and tokens.dtype == following.dtype == jnp.float32
    np.testing.assert_array_equal(model.apply(params, TOKENS, VALID), tokens)
    head = params["params"]["next_sentence"]
    np.testing.assert_allclose(following, pooled @ head["kernel"] + head["bias"], atol=1e-6)


@pytest.mark.parametrize(
    ("method", "sentence"),
    [("pooled", "model.head 'masked' has no pooler: use"), ("pretraining", "model.head 'masked' does not tell next")],
)
def test_heads_that_a_model_lacks(method, sentence):
    model = tiny(head="masked")
    with pytest.raises(UserError, match=sentence):
        model.apply(random_params(model, TOKENS), TOKENS, method=method)


def test_texts_beyond_the_positions_are_refused():
    with pytest.raises(UserError, match=r"length 6 exceeds 5 positions: use a larger model.max_length"):
        tiny(max_length=7, first_position=2).init(jax.random.key(0), TOKENS)


@pytest.mark.parametrize("pool", ["mean", "cls", "max"])
def test_sentence_vectors_leave_padding_out(pool):
    """Against numpy, text by text; also where padding holds what is not a number."""
    states = np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)
    pick = {"mean": lambda x: x.mean(0), "cls": lambda x: x[0], "max": lambda x: x.max(0)}[pool]
    expected = np.stack([pick(state[np.asarray(valid)]) for state, valid in zip(states, VALID, strict=True)])
    states[0, 4:] = np.nan
    states = jnp.asarray(states)
    np.testing.assert_allclose(sentence_vectors(states, VALID, pool, normalise=False), expected, rtol=1e-5)
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(sentence_vectors(states, VALID, pool), expected, rtol=1e-5)
