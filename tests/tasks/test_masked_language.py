import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.data.tokenizer import Tokenizer
from research.errors import UserError
from research.models.bert import BERT
from research.tasks.masked_language import MaskedLanguage
from tests.layers.random_params import random_params

TEXTS = [{"text": "the cat sat on the mat and the dog sat on the cat again today"}, {"text": "one two three four " * 9}]
SMALL = {"num_layers": 1, "width": 8, "num_heads": 2, "mlp_width": 8, "max_length": 16, "dropout": 0.0}


def made(tmp_path, texts=TEXTS, **fields):
    source = types.SimpleNamespace(examples=lambda split: texts)
    tmp_path.mkdir(exist_ok=True)
    tokenizer = Tokenizer(kind="wordpiece", vocab_size=90)
    return MaskedLanguage(tokenizer=tokenizer, length=16, **fields).prepare(source, tmp_path)


def loss_of(task, model, batch):
    batch = jax.tree.map(jnp.asarray, batch)
    params = random_params(model, *task.model_inputs(batch))

    def apply(*inputs, method=None):
        return model.apply(params, *inputs, method=method), {}

    return task.loss(apply, batch)[0], params


def test_the_loss_is_that_of_all_logits_at_the_masked_places(tmp_path):
    """Against float64 log-probabilities of every place; rows of weight 0 do not count."""
    task = made(tmp_path, next_sentence=True)
    model = BERT(head="pretraining", **SMALL, **task.model_fields())
    batch = task.rows(TEXTS, train=True, seed=0).first(4) | {"weight": np.array([1, 1, 0, 1], np.float32)}
    metrics, params = loss_of(task, model, batch)
    inputs = task.model_inputs(jax.tree.map(jnp.asarray, batch))
    logits, follows = map(np.float64, model.apply(params, *inputs, method="pretraining"))
    chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    pairs = follows - np.log(np.exp(follows).sum(-1, keepdims=True))
    nats = count = of_pairs = right = 0
    for row in (0, 1, 3):
        of_pairs -= pairs[row, batch["other"][row]]
        for place, label, one in zip(batch["places"][row], batch["labels"][row], batch["masked"][row], strict=True):
            nats -= one * chances[row, place, label]
            right += one * (chances[row, place].argmax() == label)
            count += one
    value = {name: float(total / weight) for name, (total, weight) in metrics.items()}
    assert value["masked_loss"] == pytest.approx(nats / count, rel=1e-4)
    assert value["loss"] == pytest.approx(nats / count + of_pairs / 3, rel=1e-4)
    assert value["masked_accuracy"] == pytest.approx(right / count)


def test_other_places_have_no_say_in_the_loss(tmp_path):
    """A label beyond a row's masked tokens, or at any other place, may be anything."""
    task = made(tmp_path)
    model = BERT(head="masked", **SMALL, **task.model_fields())
    batch = task.rows(TEXTS, train=True, seed=0).first(3) | {"weight": np.ones(3, np.float32)}
    changed = batch | {"labels": np.where(batch["masked"] > 0, batch["labels"], 7)}
    first, second = (loss_of(task, model, each)[0]["loss"] for each in (batch, changed))
    assert float(first[0]) == float(second[0]) and "next_sentence_accuracy" not in loss_of(task, model, batch)[0]


def test_missing_words_are_found_where_a_person_writes_mask(tmp_path):
    """With a model whose head has a bias for one word alone."""
    task = made(tmp_path)
    model = BERT(head="masked", **SMALL, **task.model_fields())
    examples = [task.example("the [MASK] sat on the [MASK]"), task.example("[MASK]")]
    batch = jax.tree.map(jnp.asarray, task.questions(examples).batch(np.arange(2), np.zeros(2), None))
    ids, mask = task.vocabulary.ids, task.vocabulary.mask
    between = task.vocabulary.encode("sat on the")
    row = [task.vocabulary.cls, ids["the"], mask, *between, mask, task.vocabulary.sep]
    assert batch["tokens"][0, : len(row)].tolist() == row
    params = jax.tree.map(jnp.zeros_like, random_params(model, *task.model_inputs(batch)))
    params["params"]["masked"]["bias"] = params["params"]["masked"]["bias"].at[ids["the"]].set(20.0)
    tokens, chances = jax.device_get(task.predict(model, params, batch))
    answers = [task.answer(example, [(tokens[n], chances[n])]) for n, example in enumerate(examples)]
    assert [answer["text"] for answer in answers] == ["the the sat on the the", "the"]
    assert answers[1]["words"] == ["the"] and answers[1]["probability"] == pytest.approx(1, abs=1e-3)


def test_what_a_person_can_be_told(tmp_path):
    task = made(tmp_path)
    with pytest.raises(UserError, match=r"input 1 has no \[MASK\]: write it where a word is missing"):
        task.questions([{"text": "nothing"}])
    with pytest.raises(UserError, match=r"input 1 has \d+ tokens, and 16 fit: shorten it"):
        task.questions([{"text": "[MASK]" + " the" * 20}])
    with pytest.raises(UserError, match="the text has too few words for a window"):
        task.rows([], train=True, seed=0)
    with pytest.raises(UserError, match="too few words"):
        task.rows([{"text": "the"}], train=True, seed=0)
    source = types.SimpleNamespace(examples=lambda split: TEXTS)
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=r"task.tokenizer has no \[MASK\].*: use kind wordpiece"):
        MaskedLanguage(tokenizer=Tokenizer("word")).prepare(source, tmp_path / "other")
    with pytest.raises(UserError, match=r"task.length 7 leaves no room"):
        MaskedLanguage(tokenizer=Tokenizer("word"), length=7).prepare(source, tmp_path / "other")
    with pytest.raises(UserError, match="vocab_size 6 is too small for kind wordpiece: use at least 7"):
        Tokenizer(kind="wordpiece", vocab_size=6)


def test_shown_texts_fit_and_lack_one_word(tmp_path):
    task = made(tmp_path)
    for example in task.shown(TEXTS, 4):
        task.questions([example])
        assert example["text"].count("[MASK]") == 1 and len(example["target"].split()) == len(example["text"].split())
