import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.data.tokenizer import Tokenizer
from research.errors import UserError
from research.models.bert import BERT
from research.tasks.token_classification import TokenClassification
from tests.layers.random_params import random_params

SENTENCES = [
    {"source": "playing cats play", "target": "V N V"},
    {"source": "cats " * 9 + "playing", "target": "N " * 9 + "V"},
]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "cat", "##s", "b"]
BERTS = {"num_layers": 1, "width": 8, "num_heads": 2, "mlp_width": 8, "max_length": 12, "dropout": 0.0}


@pytest.fixture
def task(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("run")
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES))
    source = types.SimpleNamespace(examples=lambda split: SENTENCES)
    tokenizer = Tokenizer(path=str(tmp_path / "vocab.txt"))
    return TokenClassification(tokenizer=tokenizer, length=8, dropout=0.0).prepare(source, tmp_path)


def test_the_first_piece_of_a_word_has_its_label(task):
    batch = task.rows(SENTENCES, train=True, seed=0).first(1)
    assert task.class_names == ("N", "V")
    assert batch["tokens"].tolist() == [[2, 5, 6, 7, 8, 5, 3]]
    assert batch["labels"].tolist() == [[-1, 1, -1, 0, -1, 1, -1]] and not batch["segments"].any()


def test_a_long_sentence_becomes_rows_of_whole_words(task):
    rows = task.rows(SENTENCES, train=False, seed=0)
    batch = rows.batch(np.arange(len(rows)), np.zeros(len(rows)), None)
    assert rows.owners().tolist() == [0, 1, 1, 1, 1] and (batch["tokens"] != 0).sum(1).tolist() == [7, 8, 8, 8, 4]
    labels = [row[row >= 0].tolist() for row in batch["labels"]]
    assert [label for row in labels[1:] for label in row] == [0] * 9 + [1]
    answer = task.answer(SENTENCES[1], [np.full(8, 0), np.full(8, 1), np.full(8, 0), np.full(8, 1)])
    assert answer["text"] == "N N N V V V N N N V"


def test_the_loss_is_the_mean_over_words(task):
    batch = task.rows(SENTENCES, train=False, seed=0).first(3) | {"weight": np.array([1, 1, 0], np.float32)}
    batch = jax.tree.map(jnp.asarray, batch)
    model = task.with_head(BERT(**BERTS, **task.model_fields()))
    params = random_params(model, *task.model_inputs(batch))

    def apply(*inputs, method=None):
        return model.apply(params, *inputs, method=method), {}

    metrics, _ = task.loss(apply, batch)
    logits = np.float64(model.apply(params, *task.model_inputs(batch)))
    nats = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    words = [(row, place) for row in range(2) for place in range(8) if batch["labels"][row, place] >= 0]
    expected = -sum(nats[row, place, batch["labels"][row, place]] for row, place in words) / 6
    assert len(words) == 6 and float(metrics["loss"][0] / metrics["loss"][1]) == pytest.approx(expected, rel=1e-4)
    best = task.predict(model, params, batch)
    right = sum(int(best[row, place] == batch["labels"][row, place]) for row, place in words)
    assert float(metrics["accuracy"][0]) == right


def test_a_word_without_tokens_has_a_tag_too(task):
    example = task.example("  cats \u200d  play ")
    assert example == {"source": "cats \u200d play"}
    batch = task.questions([example]).first()
    assert batch["tokens"].tolist() == [[2, 7, 8, 1, 5, 3]]
    assert task.answer(example, [np.array([0, 0, 0, 1, 1, 0])])["tags"] == ["N", "V", "V"]


def test_spans_are_scored_where_tags_have_them(task, tmp_path):
    assert task.scorer() is None
    source = types.SimpleNamespace(examples=lambda split: [{"source": "a b", "target": "B-X O"}])
    named = TokenClassification(tokenizer=Tokenizer("word")).prepare(source, tmp_path)
    assert named.class_names == ("B-X", "O") and "span_strict_f1" in named.scorer().names


def test_a_vocabulary_whose_words_carry_the_space_before_them(tmp_path):
    source = types.SimpleNamespace(examples=lambda split: SENTENCES)
    task = TokenClassification(tokenizer=Tokenizer("word"), length=8).prepare(source, tmp_path)
    tokens = task.questions([{"source": "playing cats"}]).first()["tokens"][0]
    assert [task.vocabulary.id_to_token(int(token)) for token in tokens] == ["<s>", "playing", " cats", "</s>"]


def test_tags_that_do_not_fit(task, tmp_path):
    with pytest.raises(UserError, match="sentence 0 has 2 words and 1 tags: give one for each word"):
        task.rows([{"source": "cats play", "target": "N"}], train=False, seed=0)
    with pytest.raises(UserError, match=r"sentence 0 has the label 'ADJ', which training has not seen \(N, V\)"):
        task.rows([{"source": "cats play", "target": "N ADJ"}], train=False, seed=0)
    source = types.SimpleNamespace(examples=lambda split: SENTENCES)
    with pytest.raises(UserError, match=r"no word with the tag 'ADJ' of task\.class_names"):
        TokenClassification(tokenizer=Tokenizer("word"), class_names=("N", "V", "ADJ")).prepare(source, tmp_path)
