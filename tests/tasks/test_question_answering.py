import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.data.tokenizer import Tokenizer
from research.errors import UserError
from research.models.bert import BERT
from research.tasks.question_answering import QuestionAnswering, misplaced
from tests.layers.random_params import random_params

CONTEXT = "Mary went to the kitchen. John went to the garden."
EXAMPLE = {
    "question": "Where is John?",
    "context": CONTEXT,
    "answers": {"text": ["the garden", "garden"], "answer_start": [39, 43]},
}
NOTHING = {"question": "Why?", "context": CONTEXT, "answers": {"text": [], "answer_start": []}}
BERTS = {"num_layers": 1, "width": 8, "num_heads": 2, "mlp_width": 8, "max_length": 64, "dropout": 0.0}


def made(tmp_path, **fields):
    source = types.SimpleNamespace(examples=lambda split: [EXAMPLE])
    fields = {"length": 32, "question_length": 6, "overlap": 4, "dropout": 0.0} | fields
    return QuestionAnswering(tokenizer=Tokenizer(kind="wordpiece", vocab_size=120), **fields).prepare(source, tmp_path)


def rows_of(task, examples, train=False):
    rows = task.rows(examples, train=train, seed=0)
    return rows, rows.batch(np.arange(len(rows)), np.zeros(len(rows)), None)


def words(task, tokens):
    return task.vocabulary.decode([int(token) for token in tokens])


def test_the_answer_is_where_its_characters_are(tmp_path):
    task = made(tmp_path)
    rows, batch = rows_of(task, [EXAMPLE])
    start, end = int(batch["start"][0]), int(batch["end"][0])
    assert len(rows) == 1 and words(task, batch["tokens"][0, start : end + 1]) == "the garden"
    question = len(task.vocabulary.encode(EXAMPLE["question"]))
    assert batch["segments"][0].tolist().index(1) == question + 2


@pytest.mark.parametrize("length", [14, 16, 18])
def test_windows_cover_the_context_and_overlap(length, tmp_path):
    task = made(tmp_path, length=length)
    rows, batch = rows_of(task, [NOTHING | {"answers": EXAMPLE["answers"]}, EXAMPLE])
    for owner, example in enumerate([NOTHING, EXAMPLE]):
        mine = np.flatnonzero(rows.owners() == owner)
        first = len(task.vocabulary.encode(example["question"])) + 2
        parts = [row[first:][: int((row != 0).sum()) - first - 1].tolist() for row in batch["tokens"][mine]]
        everything = parts[0]
        for part in parts[1:]:
            assert part[:4] == everything[-4:]
            everything = everything + part[4:]
        assert everything == task.vocabulary.encode(CONTEXT) and len(parts) > 1
        for row in mine:
            start, end = batch["start"][row], batch["end"][row]
            assert (start, end) == (0, 0) or words(task, batch["tokens"][row, start : end + 1]) == "the garden"
        assert any(batch["start"][mine])


def logits_for(task, example, spans, null=0.0):
    """Raw answers of all rows of an example, in which these character spans have these scores at start and end."""
    rows = []
    for window in task._windows([example]):
        start, end = np.full(task.length, -9.0, np.float32), np.full(task.length, -9.0, np.float32)
        start[0] = end[0] = null / 2
        for (first, last), score in spans.items():
            for place, (a, b) in enumerate(window.places):
                start[window.first + place] = score / 2 if a == first else start[window.first + place]
                end[window.first + place] = score / 2 if b == last else end[window.first + place]
        rows.append((start, end))
    return rows


@pytest.mark.parametrize("length", [18, 32])
def test_the_best_span_of_all_rows_answers(length, tmp_path):
    task = made(tmp_path, length=length, longest_answer=2)
    answer = task.answer(EXAMPLE, logits_for(task, EXAMPLE, {(43, 49): 8.0, (17, 24): 6.0}))
    assert answer["text"] == "garden" and answer["candidates"][1]["text"] == "kitchen"
    chances = [each["probability"] for each in answer["candidates"]]
    assert sum(chances) == pytest.approx(1) and chances == sorted(chances, reverse=True)
    assert chances[0] / chances[1] == pytest.approx(np.exp(2), rel=1e-4)


def test_brute_force_over_all_spans(tmp_path):
    """With all candidates, no span of the allowed length has a higher score than the answer."""
    task = made(tmp_path, longest_answer=3, candidates=100)
    (window,) = task._windows([EXAMPLE])
    start, end = np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)
    best = max(
        (start[window.first + a] + end[window.first + b], -a, -b)
        for a in range(len(window.places))
        for b in range(a, min(a + 3, len(window.places)))
    )
    first, last = window.places[-best[1]][0], window.places[-best[2]][1]
    assert task.answer(EXAMPLE, [(start, end)])["text"] == CONTEXT[first:last]


def test_no_answer_where_its_score_is_higher_by_the_threshold(tmp_path):
    task = made(tmp_path, no_answer=True)
    rows = logits_for(task, EXAMPLE, {(43, 49): 8.0}, null=9.0)
    answer = task.answer(EXAMPLE, rows)
    assert answer["text"] == "" and answer["null_score"] == pytest.approx(1)
    assert task.answering(null_threshold=1.5).answer(EXAMPLE, rows)["text"] == "garden"
    assert task.answer({**EXAMPLE, "context": " "}, [(np.zeros(32), np.zeros(32))])["text"] == ""
    assert rows_of(task, [NOTHING])[1]["start"].tolist() == [0]


def test_the_loss_is_the_mean_of_both_ends(tmp_path):
    task = made(tmp_path)
    _, batch = rows_of(task, [EXAMPLE, EXAMPLE])
    batch = jax.tree.map(jnp.asarray, batch | {"weight": np.array([1, 0], np.float32)})
    model = task.with_head(BERT(**BERTS, **task.model_fields()))
    params = random_params(model, *task.model_inputs(batch))

    def apply(*inputs, method=None):
        return model.apply(params, *inputs, method=method), {}

    metrics, _ = task.loss(apply, batch)
    count = int((batch["tokens"][0] != 0).sum())
    logits = np.float64(model.apply(params, *task.model_inputs(batch)))[0, :count]
    nats = logits - np.log(np.exp(logits).sum(0))
    expected = -(nats[batch["start"][0], 0] + nats[batch["end"][0], 1]) / 2
    assert metrics["loss"][1] == 1 and float(metrics["loss"][0]) == pytest.approx(expected, rel=1e-4)


def test_answers_outside_of_their_context_are_counted_and_three_are_named(tmp_path):
    task = made(tmp_path)
    wrong = {**EXAMPLE, "answers": {"text": ["garden"], "answer_start": [42]}}
    assert misplaced(wrong) == ["garden"] and not misplaced(EXAMPLE) and not misplaced({"context": "x"})
    beyond = {**EXAMPLE, "answers": {"text": ["x", "Mary"], "answer_start": [900, -50]}}
    with pytest.raises(
        UserError,
        match=r"5 answers are not where their context has them \('garden' of example 1, 'x' of example 2, 'Mary' of "
        r"example 2, \.\.\.\): correct answer_start",
    ):
        task.rows([EXAMPLE, wrong, beyond, beyond], train=True, seed=0)
    assert "an answer is not where the context has it" in task.remarks(wrong) and not task.remarks(EXAMPLE)


def test_what_else_a_person_can_be_told(tmp_path):
    task = made(tmp_path)
    with pytest.raises(UserError, match=r"example 1 has no answer: set task\.no_answer to True"):
        task.rows([EXAMPLE, NOTHING], train=True, seed=0)
    with pytest.raises(UserError, match="write them with a tab between them"):
        task.example("Where is John?")
    assert task.example("Who?\\tHe.") == {"question": "Who?", "context": "He."}
    assert task.example("Who?\tHe.\tShe.") == {"question": "Who?", "context": "He.\tShe."}
    with pytest.raises(UserError, match=r"task\.length 12 leaves no room for new words beside a question of 6"):
        made(tmp_path, length=12)


def test_the_attention_shown_is_that_of_the_row_with_the_answer(tmp_path):
    task = made(tmp_path, length=18, longest_answer=2)
    for span, word in (((43, 49), "garden"), ((0, 4), "mary")):
        answer = task.answer(EXAMPLE, logits_for(task, EXAMPLE, {span: 8.0}))
        assert answer["answer_start"] == span[0] and CONTEXT[span[0] : span[1]] == answer["text"]
        view = task.view(EXAMPLE, answer)
        assert len(view.tokens["tokens"]) == view.inputs[0].shape[1]
        assert word in words(task, view.inputs[0][0][view.inputs[2][0] == 1])
    assert len(list(task._windows([EXAMPLE]))) > 1
    nothing = made(tmp_path, no_answer=True)
    assert nothing.answer(EXAMPLE, logits_for(nothing, EXAMPLE, {}, null=9.0))["answer_start"] is None
