import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.data.tokenizer import BOS, EOS, PAD, Tokenizer
from research.decoding import beam
from research.errors import UserError
from research.models.rnn import RNNSeq2Seq
from research.models.seq2seq import Seq2Seq
from research.tasks.next_token import NextToken
from research.tasks.translation import Translation
from tests.decoding.beam_reference import reference_beam_search
from tests.layers.random_params import random_params

VOCABULARY = Tokenizer("whitespace").train(["a b c d e f"])
UNUSED = 3  # rows of the models' tables beyond the vocabulary
SOURCES = ["a b c", "f", "c d e a b", "b b"]
SIZES = {"width": 8, "num_layers": 1}
MODELS = {
    "sinusoidal": Seq2Seq(VOCABULARY.vocab_size + UNUSED, num_heads=2, mlp_width=8, **SIZES),
    "learned": Seq2Seq(
        VOCABULARY.vocab_size + UNUSED, num_heads=2, mlp_width=8, positions="learned", max_length=7, **SIZES
    ),
    "scanned": Seq2Seq(VOCABULARY.vocab_size + UNUSED, num_heads=2, mlp_width=8, scan=True, **SIZES),
    "relative_bias": Seq2Seq(
        VOCABULARY.vocab_size + UNUSED, num_heads=2, mlp_width=8, positions="relative_bias", **SIZES
    ),
    "rnn": RNNSeq2Seq(VOCABULARY.vocab_size + UNUSED, **SIZES),
}


def make(kind, **fields):
    """A task, and a function from indices of SOURCES and the length of their padding to raw answers."""
    model = MODELS[kind]
    task = Translation(Tokenizer("whitespace"), max_length=8, extra_length=3, vocabulary=VOCABULARY)
    task = dataclasses.replace(task, **fields)
    questions = task.questions([{"source": source} for source in SOURCES])
    example = jnp.ones((1, 2), jnp.int32)
    # Drawn so that some translations end early and others at their limit.
    deviation = 1.0 if kind == "rnn" else 0.7
    variables = random_params(model, example, example, example > 0, deviation=deviation, seed=4)
    predict = jax.jit(lambda batch: task.predict(model, variables, batch))

    def raw(indices, length=6):
        batch = questions.batch(np.array(indices), np.zeros(len(indices), np.int64), length)
        return np.asarray(predict({"source": jnp.asarray(batch["source"])}))

    return task, model, variables, questions, raw


def without_cache(model, variables, max_length):
    """For a source, the log-probabilities of the next token after a prefix, by the whole model; float64 [vocab]."""
    apply = jax.jit(lambda source, target: model.apply(variables, source, target, source != PAD))

    def next_log_probabilities(source, tokens):
        logits = apply(source[None], jnp.array([tokens + [PAD] * (max_length - len(tokens))]))[0, len(tokens) - 1]
        logits = np.asarray(logits, np.float64)
        logits[[PAD, BOS, *range(VOCABULARY.vocab_size, len(logits))]] = -np.inf
        logits -= logits.max()
        return logits - np.log(np.exp(logits).sum())

    return next_log_probabilities


@pytest.mark.parametrize(
    ("kind", "beam_size"), [("sinusoidal", 1), ("learned", 1), *((kind, 3) for kind in sorted(MODELS))]
)
def test_translations_equal_those_of_a_search_without_cache(kind, beam_size, monkeypatch):
    monkeypatch.setattr(beam, "_CACHE_LENGTHS", (2, 4))  # the cache grows while these short texts are written
    task, model, variables, questions, raw = make(kind, beam_size=beam_size)
    answers = raw(range(len(SOURCES)))
    max_length = answers.shape[1]
    assert max_length == (7 if kind == "learned" else 6 + 3 + 1)
    next_log_probabilities = without_cache(model, variables, max_length)
    for row, length in enumerate(questions.source.lengths()):
        limit = min(int(length) + 3 + 1, max_length)
        follow = functools.partial(next_log_probabilities, questions.source.padded(np.array([row]), 6)[0])
        if beam_size > 1:
            expected = reference_beam_search(follow, [BOS], beam_size, limit, EOS, task.length_penalty)[0][1]
        else:
            expected = [BOS]
            while len(expected) < limit and expected[-1] != EOS:
                expected.append(int(follow(expected).argmax()))
        assert answers[row][answers[row] != PAD].tolist() == expected


@pytest.mark.parametrize("kind", ["sinusoidal", "rnn"])
@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_translation_depends_on_nothing_but_its_source(kind, beam_size):
    task, _, _, _, raw = make(kind, beam_size=beam_size)
    texts = [task.answer({}, [row])["text"] for row in raw(range(len(SOURCES)))]
    assert len(set(texts)) > 1
    order = [2, 0, 3, 1]
    assert [task.answer({}, [row])["text"] for row in raw(order)] == [texts[index] for index in order]
    assert [task.answer({}, [row])["text"] for row in raw([1], length=8)] == [texts[1]]


def test_the_length_penalty_prefers_longer_translations():
    words = {}
    for length_penalty in (0.0, 3.0):
        task, _, _, _, raw = make("rnn", beam_size=3, length_penalty=length_penalty)
        words[length_penalty] = sum(len(task.answer({}, [row])["text"].split()) for row in raw(range(len(SOURCES))))
    assert words[0.0] < words[3.0]


@pytest.mark.parametrize("task", [Translation, NextToken])
def test_a_pair_of_texts_needs_special_tokens(task, tmp_path):
    with pytest.raises(UserError, match=r"task\.tokenizer\.specials is False, .*: set it to True"):
        task(Tokenizer("word", specials=False)).prepare(None, tmp_path)
