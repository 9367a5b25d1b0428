import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.data.tokenizer import Tokenizer
from research.errors import UserError
from research.models.decoder import Decoder
from research.tasks.next_token import NextToken

EQUATIONS = [{"source": "1 + 2 =", "target": "3"}, {"source": "2 + 2 =", "target": "4"}]


@pytest.fixture
def task(tmp_path):
    class Source:
        def examples(self, split):
            return EQUATIONS

    return NextToken(Tokenizer("whitespace")).prepare(Source(), tmp_path)


def batch_of(dataset):
    return dataset.batch(np.arange(len(dataset)), np.zeros(len(dataset)), None)


def test_loss_is_that_of_the_last_token_and_padding_counts_for_nothing(task):
    batch = batch_of(task.rows(EQUATIONS, train=True, seed=0)) | {"weight": np.array([1.0, 0.0], np.float32)}
    assert batch["tokens"].shape == (2, 4)
    label, size = int(batch["label"][0]), task.vocabulary.vocab_size

    def apply(tokens):
        logits = jnp.full((*tokens.shape, size), 5.0).at[:, :, 0].set(9.0)  # what comes earlier does not count
        return logits.at[:, -1].set(0.0).at[:, -1, label].set(math.log(3)), {"updated": True}

    metrics, updates = task.loss(apply, batch)
    assert updates == {"updated": True}
    assert metrics["loss"] == (pytest.approx(math.log((size + 2) / 3)), 1.0)
    assert metrics["accuracy"] == (1.0, 1.0)
    shifted = batch | {"label": batch["label"][::-1]}
    assert task.loss(apply, shifted)[0]["accuracy"] == (0.0, 1.0)


def test_the_most_probable_token_is_the_answer(task):
    model = Decoder(task.vocabulary.vocab_size, num_layers=1, width=8, num_heads=2)
    batch = jax.tree.map(jnp.asarray, batch_of(task.questions([{"source": "2 + 1 ="}])))
    variables = model.init(jax.random.key(0), batch["tokens"])
    raw = task.predict(model, variables, batch)
    best = int(model.apply(variables, batch["tokens"])[0, -1].argmax())
    assert raw.tolist() == [best] and task.answer({}, [np.asarray(raw)[0]]) == {"text": task.vocabulary.decode([best])}


@pytest.mark.parametrize("source", ["1 + 2", "1 + 7 =", ""])
def test_prompts_are_written_like_those_of_the_training_data(task, source):
    with pytest.raises(UserError, match="is not written like"):
        task.questions([EQUATIONS[0], {"source": source}])


def test_the_answer_is_one_token(task):
    with pytest.raises(UserError, match="the answer '3 4' is not one token"):
        task.rows([{"source": "1 + 2 =", "target": "3 4"}], train=True, seed=0)


def test_a_row_is_shown_with_its_answer(task):
    shown = task.show(batch_of(task.rows(EQUATIONS, train=True, seed=0)), 1)
    assert shown.startswith("tokens: '2'=") and "-> '4'=" in shown
