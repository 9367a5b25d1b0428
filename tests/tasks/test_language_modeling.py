import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.data.tokenizer import Tokenizer
from research.errors import UserError
from research.models.gpt import GPT
from research.tasks.language_modeling import LanguageModeling

TEXT = "Größe zählt, ünd öfter ßo.\nEine zweite Zeile.\n"


@pytest.mark.parametrize("kind", ["character", "word", "bpe"])
def test_bits_per_byte_of_an_even_distribution(kind):
    """Even logits cost log2(vocabulary) bits a token; the bytes of all tokens but the first add up to the text's."""
    tokenizer = Tokenizer(kind, 300 if kind == "bpe" else None).train([TEXT])
    task = LanguageModeling(Tokenizer(kind, 300 if kind == "bpe" else None), length=7, vocabulary=tokenizer)
    windows = task.dataset([{"text": TEXT}], train=False, seed=0)
    batch = windows.batch(np.arange(len(windows)), np.zeros(len(windows), np.int64), None)
    batch["weight"] = np.ones(len(windows), np.float32)

    def apply(tokens, method):
        return (jnp.zeros((*tokens.shape, 4)), jnp.zeros((tokenizer.vocab_size, 4))), {}

    metrics, _ = task.loss(apply, batch)
    tokens = tokenizer.encode(TEXT)
    first = len(tokenizer.decode(tokens[:1]).encode())
    bits, num_bytes = metrics["bits_per_byte"]
    assert float(num_bytes) == len(TEXT.encode()) - first
    assert float(bits) == pytest.approx((len(tokens) - 1) * math.log2(tokenizer.vocab_size), rel=1e-5)
    assert float(metrics["loss"][0] / metrics["loss"][1]) == pytest.approx(math.log(tokenizer.vocab_size), rel=1e-5)


def test_documents_are_kept_apart_by_an_end_marker():
    tokenizer = Tokenizer("word").train(["a b", "c d"])
    task = LanguageModeling(Tokenizer("word"), length=2, vocabulary=tokenizer)
    tokens = task.dataset([{"text": "a b"}, {"text": "c d"}], train=False, seed=0).tokens
    assert tokens.tolist() == [*tokenizer.encode("a b"), 2, *tokenizer.encode("c d"), 2]


def test_a_sharp_temperature_continues_greedily_from_ragged_prompts():
    tokenizer = Tokenizer("character", specials=False).train(["abcdef"])
    task = LanguageModeling(Tokenizer("character", specials=False), 8, temperature=1e-4, vocabulary=tokenizer)
    model = GPT(tokenizer.vocab_size, num_layers=1, width=16, num_heads=2, max_length=8)
    variables = model.init(jax.random.key(3), jnp.zeros((1, 8), jnp.int32))
    batch = task.questions([{"text": "a"}, {"text": "fed"}]).batch(np.arange(2), np.zeros(2), None)
    answers = np.asarray(jax.jit(lambda batch: task.predict(model, variables, batch))(batch))
    for row, prompt in zip(answers, ("a", "fed"), strict=True):
        expected = tokenizer.encode(prompt)
        while len(expected) < 8:
            logits = model.apply(variables, jnp.array([expected]))
            expected.append(int(logits[0, -1].argmax()))
        assert row.tolist() == expected


@pytest.mark.parametrize("prompt", ["", "abcdefabc"])
def test_prompts_must_leave_room(prompt):
    tokenizer = Tokenizer("character").train(["abcdef"])
    with pytest.raises(UserError, match="prompt 1 has"):
        LanguageModeling(Tokenizer("character"), 8, vocabulary=tokenizer).questions([{"text": prompt}])
