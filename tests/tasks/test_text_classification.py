import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.data.tokenizer import Tokenizer
from research.errors import UserError
from research.models.bert import BERT
from research.models.gpt import GPT
from research.tasks.text import cut_pair
from research.tasks.text_classification import TextClassification
from tests.layers.random_params import random_params

SINGLE = [{"source": f"word{n % 3} b c", "label": "spam" if n % 3 else "ham"} for n in range(6)]
PAIRS = [{"source": "a b c d e f", "second": f"x{n} y", "label": str(n / 2)} for n in range(4)]
SEVERAL = [{"source": "a", "label": "x|y"}, {"source": "b", "label": ["z"]}, {"source": "c", "label": ""}]
BERTS = {"num_layers": 1, "width": 8, "num_heads": 2, "mlp_width": 8, "max_length": 12, "dropout": 0.0}


def made(tmp_path, examples, **fields):
    tmp_path.mkdir(exist_ok=True)
    source = types.SimpleNamespace(examples=lambda split: examples)
    task = TextClassification(tokenizer=Tokenizer(kind="wordpiece", vocab_size=80), length=9, dropout=0.0, **fields)
    return task.prepare(source, tmp_path)


def evaluated(task, examples, weight=None):
    """Metrics of examples, and the logits of a model with random parameters, in float64."""
    batch = task.rows(examples, train=False, seed=0).first(len(examples))
    batch |= {"weight": np.ones(len(examples), np.float32) if weight is None else np.array(weight, np.float32)}
    batch = jax.tree.map(jnp.asarray, batch)
    model = task.with_head(BERT(**BERTS, **task.model_fields()))
    params = random_params(model, *task.model_inputs(batch))

    def apply(*inputs, method=None):
        return model.apply(params, *inputs, method=method), {}

    metrics = {name: float(total / count) for name, (total, count) in task.loss(apply, batch)[0].items()}
    answers = jax.device_get(task.predict(model, params, batch))
    return metrics, np.float64(model.apply(params, *task.model_inputs(batch))), answers


def test_rows_of_one_text_and_of_two(tmp_path):
    task = made(tmp_path, PAIRS, kind="number")
    ids, cls, sep = task.vocabulary.ids, task.vocabulary.cls, task.vocabulary.sep
    batch = task.questions([{"source": "a b"}, {"source": "a b c d e f", "second": "y y"}]).first(2)
    a, b, c, d, y = (ids[word] for word in "abcdy")
    assert batch["tokens"].tolist() == [[cls, a, b, sep, 0, 0, 0, 0, 0], [cls, a, b, c, d, sep, y, y, sep]]
    assert batch["segments"].tolist() == [[0] * 9, [0, 0, 0, 0, 0, 0, 1, 1, 1]]


@pytest.mark.parametrize("room", range(2, 12))
@pytest.mark.parametrize("sizes", [(8, 8), (9, 2), (2, 9), (0, 7), (5, 6)])
def test_the_longer_text_is_cut_token_by_token(sizes, room):
    """As BERT's own loop does it."""
    first, second = (list(range(size)) for size in sizes)
    expected = list(first), list(second)
    while len(expected[0]) + len(expected[1]) > room:
        (expected[0] if len(expected[0]) > len(expected[1]) else expected[1]).pop()
    assert cut_pair(first, second, room) == expected


def test_the_loss_of_classes(tmp_path):
    task = made(tmp_path, SINGLE)
    assert task.class_names == ("ham", "spam")
    metrics, logits, answers = evaluated(task, SINGLE, weight=[1, 1, 1, 1, 0, 0])
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([0, 1, 1, 0])
    assert metrics["loss"] == pytest.approx(-np.log(chances[np.arange(4), labels]).mean(), rel=1e-4)
    assert metrics["accuracy"] == (chances[:4].argmax(1) == labels).mean()
    np.testing.assert_allclose(answers, chances, atol=1e-5)
    answer = task.answer(SINGLE[0], [np.array([0.3, 0.7])])
    assert answer == {"text": "spam", "label": "spam", "probability": 0.7}


def test_the_loss_of_several_labels_and_of_a_number(tmp_path):
    task = made(tmp_path / "labels", SEVERAL, kind="labels")
    assert task.class_names == ("x", "y", "z")
    metrics, logits, _answers = evaluated(task, SEVERAL)
    truth, chances = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0]]), 1 / (1 + np.exp(-logits))
    expected = -(truth * np.log(chances) + (1 - truth) * np.log(1 - chances)).mean()
    assert metrics["loss"] == pytest.approx(expected, rel=1e-4)
    answer = task.answer(SEVERAL[0], [np.array([0.9, 0.2, 0.6])])
    assert answer["labels"] == ["x", "z"] and answer["text"] == "x|z"
    assert task.answering(threshold=0.7).answer(SEVERAL[0], [np.array([0.9, 0.2, 0.6])])["text"] == "x"

    task = made(tmp_path / "number", PAIRS, kind="number")
    metrics, logits, _ = evaluated(task, PAIRS)
    assert metrics["loss"] == pytest.approx(((logits[:, 0] - np.arange(4) / 2) ** 2).mean(), rel=1e-4)
    assert task.answer(PAIRS[0], [np.array([1.25])]) == {"text": "1.25", "value": 1.25}


@pytest.mark.parametrize(
    ("fields", "examples", "names"),
    [
        ({"positive": "spam"}, SINGLE, {"f1", "macro_f1", "matthews"}),
        ({}, SINGLE, {"macro_f1", "matthews"}),
        ({"kind": "labels"}, SEVERAL, {"micro_f1", "subset_accuracy"}),
        ({"kind": "number"}, PAIRS, {"pearson", "spearman"}),
    ],
)
def test_scores_of_right_answers_are_1(fields, examples, names, tmp_path):
    task = made(tmp_path, examples, **fields)
    scorer = task.scorer()
    for example in examples:
        text = task.reference(example)
        answer = {"label": text, "labels": [part for part in text.split("|") if part]}
        scorer.add(example, answer | ({"value": float(text)} if task.kind == "number" else {}))
    assert set(scorer.names) == names and scorer.result() == {name: pytest.approx(1) for name in names}


def test_classes_that_the_source_names_are_numbers(tmp_path):
    source = types.SimpleNamespace(examples=lambda split: [{"source": "a", "label": 1}], class_names=("no", "yes"))
    task = TextClassification(tokenizer=Tokenizer(kind="word"), pool="last").prepare(source, tmp_path)
    assert task.class_names == ("no", "yes")
    assert task.rows([{"source": "a", "label": 1}], train=False, seed=0).first()["label"].tolist() == [1]
    model = task.with_head(GPT(num_layers=1, width=8, num_heads=2, **task.model_fields()))
    inputs = task.model_inputs(jax.tree.map(jnp.asarray, task.questions([{"source": "a"}]).first()))
    assert model.apply(random_params(model, *inputs), *inputs).shape == (1, 2)
    with pytest.raises(UserError, match=r"example 0 has the label -1, which training has not seen \(no, yes\)"):
        task.rows([{"source": "a", "label": -1}], train=False, seed=0)


def test_an_input_of_a_person(tmp_path):
    task = made(tmp_path, SINGLE)
    assert task.example("one") == {"source": "one"}
    assert task.example("one\ttwo\tthree") == {"source": "one", "second": "two\tthree"}


def test_labels_that_do_not_fit(tmp_path):
    task = made(tmp_path, SINGLE)
    with pytest.raises(UserError, match=r"example 1 has the label 'eggs', which training has not seen \(ham, spam\)"):
        task.rows([SINGLE[0], {"source": "a", "label": "eggs"}], train=False, seed=0)
    numbers = made(tmp_path / "a", PAIRS, kind="number")
    for label in ("much", "nan", "-inf"):
        with pytest.raises(UserError, match=f"the label '{label}', which is not a number"):
            numbers.rows([{**PAIRS[0], "label": label}], train=False, seed=0)
    with pytest.raises(UserError, match=r"no example of 'eggs', one of 3 classes in task\.class_names: add examples"):
        made(tmp_path / "b", SINGLE, class_names=("ham", "spam", "eggs"))
    with pytest.raises(UserError, match=r"task\.class_names lists"):
        made(tmp_path / "c", SINGLE, class_names=("ham",))
    with pytest.raises(UserError, match="the training data have 1 labels: two or more"):
        made(tmp_path / "d", SINGLE[:1])
    with pytest.raises(UserError, match=r"task\.positive 'egg' is not a class: use one of ham, spam"):
        made(tmp_path / "e", SINGLE, positive="egg")
    with pytest.raises(UserError, match="the data have no examples"):
        task.rows([], train=False, seed=0)


def test_a_length_beyond_the_models_positions(tmp_path):
    task = made(tmp_path, SINGLE)
    model = task.with_head(BERT(**{**BERTS, "max_length": 8}, **task.model_fields()))
    inputs = task.model_inputs(jax.tree.map(jnp.asarray, task.rows(SINGLE, train=False, seed=0).batch(
        np.arange(1), np.zeros(1), None)))  # fmt: skip
    with pytest.raises(UserError, match=r"length 9 exceeds 8 positions: use a larger model\.max_length"):
        model.init(jax.random.key(0), *inputs)
