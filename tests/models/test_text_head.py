import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import UserError
from research.models.bert import BERT
from research.models.gpt import GPT
from research.models.rnn import RNNSeq2Seq
from research.models.text_head import TextHead
from research.parallel.sharding import by_path
from tests.layers.random_params import random_params

SMALL = {"num_layers": 2, "width": 8, "num_heads": 2, "max_length": 8}
TOKENS = jnp.array([[5, 3, 9, 4], [5, 7, 4, 0]])
SEGMENTS = jnp.array([[0, 0, 1, 1], [0, 1, 1, 0]])
INPUTS = (TOKENS, TOKENS != 0, SEGMENTS)


def bert(**fields):
    return BERT(vocab_size=12, mlp_width=16, **SMALL, **fields)


def shapes(model, *inputs):
    return by_path(jax.eval_shape(model.init, jax.random.key(0), *(inputs or INPUTS))["params"])


@pytest.mark.parametrize(
    ("fields", "outputs", "pool", "published"),
    [({}, 2, None, 108.893), ({"head": "pooler"}, 2, "pooler", 109.484)],
)
def test_parameters_of_the_published_task_models(fields, outputs, pool, published):
    """BERT-base with the heads of question answering and of two classes, in millions."""
    model = TextHead(BERT(vocab_size=30522, **fields), outputs, pool)
    assert sum(leaf.size for leaf in shapes(model).values()) / 1e6 == pytest.approx(published, abs=5e-4)


def test_the_encoder_keeps_its_paths():
    alone, headed = shapes(bert(head="pooler")), shapes(TextHead(bert(head="pooler"), 3, "pooler"))
    assert set(headed) - set(alone) == {"head/kernel", "head/bias"} and set(alone) < set(headed)


@pytest.mark.parametrize("pool", [None, "cls", "pooler", "mean", "max", "last"])
def test_outputs_are_the_head_of_the_states(pool):
    """Against the encoder alone, pooled in numpy."""
    body = bert(head="pooler")
    model = TextHead(body, 3, pool)
    params = random_params(model, *INPUTS)
    alone = {"params": {name: tree for name, tree in params["params"].items() if name != "head"}}
    if pool != "pooler":
        body = bert()
        states = np.float64(body.apply(alone, *INPUTS, method="text_states"))
        lengths = [4, 3]
        vectors = {
            None: states,
            "cls": states[:, 0],
            "mean": np.stack([row[:n].mean(0) for row, n in zip(states, lengths, strict=True)]),
            "max": np.stack([row[:n].max(0) for row, n in zip(states, lengths, strict=True)]),
            "last": np.stack([row[n - 1] for row, n in zip(states, lengths, strict=True)]),
        }[pool]
    else:
        vectors = np.float64(body.apply(alone, *INPUTS, method="pooled"))
    head = jax.tree.map(np.float64, params["params"]["head"])
    np.testing.assert_allclose(model.apply(params, *INPUTS), vectors @ head["kernel"] + head["bias"], atol=1e-4)


def test_padding_changes_nothing():
    for body, pool in ((bert(), "mean"), (bert(), "max"), (GPT(vocab_size=12, **SMALL), "last")):
        model = TextHead(body, 3, pool)
        params = random_params(model, *INPUTS)
        short = [array[1:, :3] for array in INPUTS]
        np.testing.assert_allclose(model.apply(params, *INPUTS)[1:], model.apply(params, *short), atol=1e-5)


def test_a_model_with_one_kind_of_segment_reads_two_texts():
    model = TextHead(bert(segments=1), 2, "cls")
    assert np.isfinite(model.apply(random_params(model, *INPUTS), *INPUTS)).all()


def test_dropout_is_of_training_alone():
    model = TextHead(bert(dropout=0.0, attention_dropout=0.0), 3, "cls", dropout=0.5)
    params = random_params(model, *INPUTS)
    first, second = (
        model.apply(params, *INPUTS, train=True, rngs={"dropout": jax.random.key(seed)}) for seed in range(2)
    )
    assert (first != second).any() and (model.apply(params, *INPUTS) == model.apply(params, *INPUTS)).all()


def test_models_without_states_of_a_text():
    model = TextHead(RNNSeq2Seq(vocab_size=12, num_layers=1, width=8), 2)
    with pytest.raises(UserError, match="model RNNSeq2Seq gives no states of a text's tokens: use bert or gpt"):
        model.init(jax.random.key(0), *INPUTS)
    with pytest.raises(UserError, match="has no pooler"):
        TextHead(bert(), 2, "pooler").init(jax.random.key(0), *INPUTS)


def test_features_of_masked_tokens_are_those_of_all_logits():
    model, places = bert(head="pretraining"), jnp.array([[2, 0], [1, 1]])
    params = random_params(model, *INPUTS)
    logits, follows = model.apply(params, *INPUTS, method="pretraining")
    features, table, bias, again = model.apply(params, *INPUTS, places, method="masked_features")
    expected = jnp.take_along_axis(logits, places[:, :, None], axis=1)
    np.testing.assert_allclose(features @ table.T + bias, expected, atol=1e-5)
    np.testing.assert_allclose(follows, again, atol=1e-6)
    assert bert(head="masked").apply(params, *INPUTS, places, method="masked_features")[3] is None
    with pytest.raises(UserError, match=r"model.head 'none' finds no masked tokens"):
        bert().apply(params, *INPUTS, places, method="masked_features")
