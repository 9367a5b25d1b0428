import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.data.tokenizer import Tokenizer
from research.errors import UserError
from research.models.bert import BERT
from research.tasks.sentences import Sentences
from tests.layers.random_params import random_params

PAIRS = [{"source": f"a{n} b c", "target": f"x{n} y"} for n in range(4)]


@pytest.fixture
def task(tmp_path):
    source = types.SimpleNamespace(examples=lambda split: PAIRS)
    return Sentences(Tokenizer(kind="whitespace"), length=6).prepare(source, tmp_path)


@pytest.fixture
def model(task):
    return BERT(num_layers=1, width=8, num_heads=2, mlp_width=8, max_length=6, **task.model_fields())


def test_a_text_stands_between_its_marks_and_is_cut(task):
    rows = task.questions([{"source": "b c"}, {"source": "b c b c b c b c"}]).batch(np.arange(2), np.zeros(2), None)
    b, c, (start, end) = task.vocabulary.ids["b"], task.vocabulary.ids["c"], (task.vocabulary.bos, task.vocabulary.eos)
    assert rows["source"].tolist() == [[start, b, c, end, 0, 0], [start, b, c, b, c, end]]


def test_the_loss_is_that_of_the_cosines(task, model):
    """Against numpy on float64 vectors; rows of weight 0 are neither sources nor targets."""
    batch = task.rows(PAIRS, train=True, seed=0).first(4) | {"weight": np.array([1.0, 1, 0, 0], np.float32)}
    params = random_params(model, *task.model_inputs(jax.tree.map(jnp.asarray, batch)))
    vectors = [
        np.float64(task.predict(model, params, {"source": jnp.asarray(batch[side])})) for side in ("source", "target")
    ]
    scores = vectors[0][:2] @ vectors[1][:2].T / 0.05
    losses = np.log(np.exp(scores).sum(1)) - np.diag(scores)

    def apply(*inputs, method=None):
        return model.apply(params, *inputs, method=method), {}

    metrics, _ = task.loss(apply, jax.tree.map(jnp.asarray, batch))
    np.testing.assert_allclose(metrics["loss"][0], losses.sum(), rtol=1e-4)
    assert metrics["loss"][1] == 2 and metrics["accuracy"][0] == (scores.argmax(1) == np.arange(2)).sum()


def test_an_answer_is_its_vector(task, model):
    batch = jax.tree.map(jnp.asarray, task.questions(PAIRS[:1]).first())
    (row,) = task.predict(model, random_params(model, *task.model_inputs(batch)), batch)
    answer = task.answer(PAIRS[0], [row])
    assert answer["vector"] == pytest.approx([float(number) for number in answer["text"].split()], rel=1e-5)
    assert np.linalg.norm(answer["vector"]) == pytest.approx(1)


def test_a_length_without_room(tmp_path):
    with pytest.raises(UserError, match=r"task.length 2 leaves no room for a word between two marks"):
        Sentences(Tokenizer(), length=2).prepare(None, tmp_path)


def test_an_answer_to_a_pair_has_the_vectors_of_both(task, model):
    """A pair has two rows, a text alone has one, and its vector is the same in either."""
    examples = [PAIRS[0], {"source": "b c"}, PAIRS[1]]
    rows = task.questions(examples)
    assert rows.owners().tolist() == [0, 0, 1, 2, 2]
    batch = jax.tree.map(jnp.asarray, rows.first(5))
    params = random_params(model, *task.model_inputs(batch))
    vectors = task.predict(model, params, batch)
    answer = task.answer(PAIRS[0], vectors[:2])
    alone = task.predict(model, params, jax.tree.map(jnp.asarray, task.questions([{"source": "x0 y"}]).first()))
    assert answer["target_vector"] == pytest.approx(np.asarray(alone[0]).tolist(), abs=1e-5)
    assert "target_vector" not in task.answer(examples[1], vectors[2:3])
    assert {*task.scorer().names} == {*task.scorer().signatures()}
