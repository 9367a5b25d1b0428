import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.data.tokenizer import Tokenizer
from research.errors import UserError
from research.models.bert import BERT
from research.models.gpt import GPT
from research.tasks.language_modeling import LanguageModeling, _programs
from tests.layers.random_params import random_params

TEXT = "Größe zählt, ünd öfter ßo.\nEine zweite Zeile.\n"
WHITESPACE = r"[\t\n\v\f\r \x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000]+"  # Unicode's White_Space
KINDS = {"character": None, "word": None, "whitespace": None, "bpe": 300, "unigram": 400}
ALL_KINDS = KINDS | {"wordpiece": 60}
"""With the one that changes a text before it cuts it."""


def trained(kind: str, texts: list[str], length: int = 7, specials: bool = True) -> LanguageModeling:
    tokenizer = Tokenizer(kind, ALL_KINDS[kind], specials)
    return LanguageModeling(tokenizer, length, vocabulary=tokenizer.train(texts))


def counted_bytes(task: LanguageModeling, texts: list[str]) -> tuple[list[int], list[int]]:
    """Tokens and bytes of all evaluation windows, each once, as the loss sees them; the first token has its own."""
    windows = task.rows([{"text": text} for text in texts], train=False, seed=0)
    arrays = windows.batch(np.arange(len(windows)), np.zeros(len(windows), np.int64), None)
    inside = arrays["tokens"][:, 1:] >= 0
    first = int(windows.stream[0]), int(windows.bytes[0])
    return [first[0], *arrays["tokens"][:, 1:][inside]], [first[1], *arrays["bytes"][:, 1:][inside]]


UNSEEN = "\n  Größe  \t zählt 日本 x\u2028ö \r\n\n 👍🏽ünd,\n "


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("texts", [[TEXT], [UNSEEN], [UNSEEN, "  \n", TEXT, "日", UNSEEN]], ids=["seen", "new", "many"])
def test_every_byte_of_the_text_counts_once(kind: str, texts: list[str]):
    task = trained(kind, [TEXT])
    tokens, sizes = counted_bytes(task, texts)
    assert sum(sizes) == sum(len(text.encode()) for text in texts)
    assert len(tokens) == len(sizes) and min(sizes) >= 0
    if len(texts) > 1:  # each text's bytes lie between its neighbours' end markers
        ends = np.cumsum(sizes)[np.array(tokens) == task.vocabulary.eos]
        assert ends.tolist() == np.cumsum([len(text.encode()) for text in texts]).tolist()


def test_bytes_of_words_that_stand_between_spaces():
    """Counted by hand: a space goes to the word that follows it, the last line feed to the last word."""
    task = trained("whitespace", ["a bc"], length=2)
    tokens, sizes = counted_bytes(task, ["  bc é\n\na\n"])
    assert tokens == task.vocabulary.encode("bc é a") and tokens[1] == 3
    assert sizes == [len("  bc"), len(" é".encode()), len("\n\na\n")]
    assert counted_bytes(task, ["ab\u00a0日本 c\n x\n"])[1] == [2, 2 + 6, 2, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_tokens_have_the_bytes_of_their_text(kind: str):
    task = trained(kind, ["abc "], length=3)
    _, sizes = counted_bytes(task, ["abc 日é abc"])
    marks = {  # by hand: UTF-8 of the two unseen characters has three bytes and two
        "character": [1, 1, 1, 1, 3, 2, 1, 1, 1, 1],
        "word": [3, 6, 4],
        "whitespace": [3, 6, 4],
    }
    assert sizes == marks.get(kind, sizes) and sum(sizes) == 13


def test_the_same_loss_whatever_the_bytes():
    """What is learnt does not depend on them: gradients and losses are equal bit for bit."""
    task = trained("word", [TEXT])
    model = GPT(task.vocabulary.vocab_size, num_layers=1, width=16, num_heads=2, max_length=7)
    windows = task.rows([{"text": TEXT}], train=False, seed=0)
    batch = windows.batch(np.arange(2), np.zeros(2, np.int64), None) | {"weight": np.ones(2, np.float32)}
    batch = jax.tree.map(jnp.asarray, batch)
    params = model.init(jax.random.key(0), batch["tokens"][:, :-1])

    @jax.jit
    @jax.value_and_grad
    def loss(params, batch):
        return task.loss(lambda *inputs, method: (model.apply(params, *inputs, method=method), {}), batch)[0]["loss"][0]

    value, gradients = loss(params, batch)
    other, others = loss(params, {**batch, "bytes": 0 * batch["bytes"]})
    assert value == other and jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), gradients, others))


def test_two_texts_need_special_tokens():
    with pytest.raises(UserError, match=r"set task\.tokenizer\.specials to True"):
        trained("character", ["ab"], specials=False).rows([{"text": "ab"}] * 2, train=False, seed=0)


SEPARATORS = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2003\u200b\u2028\u2029\u202f\u205f\u3000\ufeff\x01\x7f"


@pytest.mark.parametrize("kind", KINDS)
def test_no_token_of_the_training_text_is_unknown(kind: str):
    """Separators of every kind before, between and after words, alone, in pairs, and with line ends."""
    pairs = "".join(f"{a}{b}ab{a}cd {b}\r\n" for a in SEPARATORS for b in SEPARATORS)
    alone = [f"one{mark}two,{mark}{mark}three\n{mark}four" for mark in SEPARATORS]  # no word stands there without it
    for text in [pairs, "".join(alone), *alone]:
        task = trained(kind, [text], length=2)
        tokens = task.rows([{"text": text}], train=False, seed=0).stream
        assert tokens.min() > 3
        joined = " ".join(filter(None, re.split(WHITESPACE, text)))
        assert task.vocabulary.decode(tokens) == (joined if kind == "whitespace" else text)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_the_beginning_of_any_text_is_a_prompt_that_is_taken(kind: str, length: int):
    task = trained(kind, [TEXT], length)
    texts = [TEXT, "", "    ", "\n" * 40, "日本" * 40, "👍🏽" * 40, " " * 40 + "a b c d e f", "a", "Größe" * 30, UNSEEN]
    for text in texts:
        prompt = task.beginning(text)
        if prompt is not None:
            assert text.startswith(prompt)
            batch = task.questions([{"text": prompt}]).batch(np.arange(1), np.zeros(1), None)
            assert 0 < batch["prompt_length"][0] < length
    assert (task.beginning("a b c d") is None) == (length == 1)
    assert task.beginning("") is None


@pytest.mark.parametrize("kind", ["character", "word", "bpe"])
def test_bits_per_byte_of_an_even_distribution(kind):
    """Even logits cost log2(vocabulary) bits a token; the bytes of all tokens but the first add up to the text's."""
    tokenizer = Tokenizer(kind, 300 if kind == "bpe" else None).train([TEXT])
    task = LanguageModeling(Tokenizer(kind, 300 if kind == "bpe" else None), length=7, vocabulary=tokenizer)
    windows = task.rows([{"text": TEXT}], train=False, seed=0)
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
    tokens = task.rows([{"text": "a b"}, {"text": "c d"}], train=False, seed=0).stream
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


def test_a_continuation_ends_before_a_stop_text():
    task = trained("character", ["ab.\ncd"])
    tokens = np.array([*task.vocabulary.encode("a.b\nc.d"), -1])
    example = {"text": "a.b"}
    assert task.answer(example, [tokens])["text"] == "a.b\nc.d"
    assert task.answering(stop=["."]).answer(example, [tokens])["text"] == "a.b\nc"
    assert task.answering(stop=["d", "\n", ""]).answer(example, [tokens])["text"] == "a.b"


def losses(task, model, params, tokens):
    """The loss of each predicted token of a row, in nats, by asking for the sums with and without it."""

    def apply(*inputs, method=None):
        return model.apply(params, *inputs, method=method), {}

    found = []
    for place in range(1, len(tokens)):
        row = np.array(tokens)[None]
        kept = np.where(np.arange(len(tokens)) <= place, row, -1)  # what is behind does not count
        batch = {"tokens": jnp.asarray(kept), "bytes": jnp.ones_like(row), "weight": jnp.ones(1)}
        found.append(float(task.loss(apply, batch)[0]["loss"][0]))
    return np.diff(found, prepend=0)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_separate_texts_of_a_window_see_nothing_of_each_other(positions):
    """The loss of the second text is the one that it has alone, whatever the first one says."""
    task = trained("character", ["abcdefgh"], length=9)
    separate = dataclasses.replace(task, separate=True)
    model = GPT(task.vocabulary.vocab_size, num_layers=2, width=8, num_heads=2, max_length=9, positions=positions)
    params = random_params(model, jnp.zeros((1, 4), jnp.int32), deviation=0.5)
    end, first, other, second = task.vocabulary.end_token, [5, 6, 7], [8, 4, 4], [9, 10, 5, 4, 6]
    behind = slice(len(first) + 1, None)  # the tokens of the second text but its first
    alone = losses(task, model, params, second)
    for before in (first, other):
        np.testing.assert_allclose(losses(separate, model, params, [*before, end, *second])[behind], alone, atol=1e-5)
    together = [losses(task, model, params, [*before, end, *second])[behind] for before in (first, other)]
    assert np.abs(together[0] - together[1]).max() > 1e-3 and np.abs(together[0] - alone).max() > 1e-3


def test_texts_are_kept_apart_in_the_picture_and_by_models_that_can():
    task = dataclasses.replace(trained("character", ["ab"], length=4), separate=True)
    row = np.array([[4, task.vocabulary.end_token, 5, 4, 5]])
    ((name, mask),) = task.masks({"tokens": row}).items()
    assert name == "decoder: causal, within a text"
    assert mask.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    with pytest.raises(UserError, match=r"model BERT cannot keep texts apart: set task\.separate to False"):
        task.with_head(BERT(vocab_size=9))
    assert trained("character", ["ab"]).with_head(model := BERT(vocab_size=9)) is model


@pytest.mark.parametrize(("length", "stride"), [(6, 1), (6, 4), (6, 6), (30, 5), (6, None)])
def test_sliding_windows_count_every_token_once_with_the_longest_context(length, stride):
    """Against the loop of the usual definition: each window's loss is of the tokens that no window before had."""
    task = dataclasses.replace(trained("character", [TEXT[:20]], length=length), stride=stride)
    model = GPT(task.vocabulary.vocab_size, num_layers=1, width=8, num_heads=2, max_length=length)
    params = random_params(model, jnp.zeros((1, length), jnp.int32), deviation=1.0)
    stream = task.vocabulary.encode(TEXT[:20])
    total, done = 0.0, 1
    for begin in range(0, len(stream), stride or length):
        end = min(begin + length + 1, len(stream))
        logits = np.float64(model.apply(params, jnp.array([stream[begin : end - 1]]))[0])
        chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        total -= sum(chances[place - begin - 1, stream[place]] for place in range(done, end))
        done = end
        if end == len(stream):
            break

    def apply(*inputs, method=None):
        return model.apply(params, *inputs, method=method), {}

    rows = task.rows([{"text": TEXT[:20]}], train=False, seed=0)
    batch = rows.first(len(rows)) | {"weight": np.ones(len(rows), np.float32)}
    nats, tokens = task.loss(apply, jax.tree.map(jnp.asarray, batch))[0]["loss"]
    assert tokens == len(stream) - 1 and float(nats) == pytest.approx(total, rel=1e-4)


def test_a_stride_beyond_the_window_is_refused():
    task = trained("character", [TEXT]).answering(stride=8)
    with pytest.raises(UserError, match="stride 8 leaves tokens out between windows of 7"):
        task.rows([{"text": TEXT}], train=False, seed=0)
    assert task.answering(stride=4).rows([{"text": TEXT}], train=True, seed=0).stride is None


def streamed(task, prompt):
    model = GPT(task.vocabulary.vocab_size, num_layers=1, width=16, num_heads=2, max_length=task.length)
    variables = random_params(model, jnp.zeros((1, 8), jnp.int32), deviation=0.5)
    example = {"text": prompt}
    batch = jax.tree.map(jnp.asarray, task.questions([example]).first())
    whole = task.answer(example, np.asarray(task.predict(model, variables, batch)))["text"]
    return whole, [task.answer(example, [row])["text"] for row in task.stream(model, variables, batch, example)]


def test_an_answer_grows_token_by_token_to_the_whole_one():
    task = trained("character", ["abcdef"], length=16, specials=False)
    whole, texts = streamed(task, "fed")
    assert texts[-1] == whole and [len(text) for text in texts] == [*range(3, len(whole) + 1)]
    assert all(text == whole[: len(text)] for text in texts)


def test_what_grows_never_shows_the_start_of_a_stop_text_or_of_a_letter():
    task = trained("character", ["abcdef"], length=24, specials=False)
    whole, _ = streamed(task, "fed")
    stop = whole[6:8]
    stopped, texts = streamed(dataclasses.replace(task, stop=(stop,)), "fed")
    assert texts[-1] == stopped == whole[: whole.index(stop, 3)]
    assert all(stopped.startswith(text) for text in texts) and len(texts) < 8
    task = trained("bpe", ["é" * 9 + "日本" * 9], length=24)
    whole, texts = streamed(task, "日é")
    assert len(texts) < 22 and all("\ufffd" not in text[-1] for text in texts[:-1])


def test_a_continuation_has_at_most_so_many_tokens_of_its_own():
    """Each row counts from the end of its own prompt."""
    task = trained("character", ["abcdef"], length=16, specials=False)
    model = GPT(task.vocabulary.vocab_size, num_layers=1, width=16, num_heads=2, max_length=16)
    variables = random_params(model, jnp.zeros((1, 8), jnp.int32), deviation=0.5)
    examples = [{"text": "fed"}, {"text": "abcdefab"}]
    batch = jax.tree.map(jnp.asarray, task.questions(examples).first(2))
    tokens = [np.asarray(one.predict(model, variables, batch)) for one in (task, task.answering(new_tokens=4))]
    pairs = [zip(examples, rows, strict=True) for rows in tokens]
    whole, short = ([task.answer(example, [row])["text"] for example, row in each] for each in pairs)
    assert short == [whole[0][:7], whole[1][:12]] and len(whole[0]) == 16
    assert streamed(task.answering(new_tokens=4), "fed")[1][-1] == short[0]


def test_a_second_stream_uses_the_programs_of_the_first():
    task = trained("character", ["abcdef"], length=16, specials=False)
    _programs.cache_clear()
    first, second = streamed(task, "fed"), streamed(task, "fed")
    assert first == second and (_programs.cache_info().misses, _programs.cache_info().hits) == (1, 1)
    streamed(task.answering(temperature=0.5), "fed")
    assert _programs.cache_info().misses == 2
