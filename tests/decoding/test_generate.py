import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.decoding.cache import init_cache
from research.decoding.generate import Generation, generate
from research.decoding.sampling import forbid, greedy, sampler
from research.errors import UserError
from research.models.gpt import GPT
from tests.layers.random_params import random_params

VOCAB, END, PAD, LENGTH = 7, 2, 0, 9
PROMPT = jnp.array([[3, 4, 5], [6, 4, 0], [3, 3, 3], [5, 6, 0]])
PROMPT_LENGTH = jnp.array([3, 2, 3, 2])


def model_and_params(scan=False):
    model = GPT(VOCAB, num_layers=2, width=8, num_heads=2, max_length=LENGTH, positions="rotary", scan=scan)
    return model, random_params(model, PROMPT, deviation=1.0, seed=8)


def run(model, params, choose, prefill=1, prompt=PROMPT, prompt_length=PROMPT_LENGTH, max_length=LENGTH, penalty=1.0):
    def step(tokens, cache, index):
        logits, state = model.apply({**params, "cache": cache}, tokens, cache_index=index, mutable=["cache"])
        return logits, state["cache"]

    @jax.jit
    def tokens(prompt, prompt_length):
        cache = init_cache(model, jnp.zeros((len(prompt), LENGTH), jnp.int32))
        settings = {"max_length": max_length, "end_token": END, "pad_token": PAD, "prefill": prefill}
        settings["penalty"] = penalty
        return generate(step, cache, prompt, prompt_length, choose=choose, rng=jax.random.key(5), **settings)

    return tokens(prompt, prompt_length)


def naive(model, params, choose, max_length=LENGTH):
    """One position after another by the whole model, without a cache."""
    apply = jax.jit(model.apply)
    rows = [list(map(int, prompt[:length])) for prompt, length in zip(PROMPT, PROMPT_LENGTH, strict=True)]
    done = [False] * len(rows)
    for index in range(1, max_length):
        tokens = jnp.array([(row + [0] * LENGTH)[:LENGTH] for row in rows])
        chosen = choose(apply(params, tokens)[:, index - 1], jax.random.fold_in(jax.random.key(5), index))
        for number, row in enumerate(rows):
            if len(row) <= index:
                row.append(PAD if done[number] else int(chosen[number]))
                done[number] |= row[-1] == END
    return np.array([row[:max_length] for row in rows])


@pytest.mark.parametrize(("scan", "prefill"), [(False, 1), (False, 2), (True, 2), (False, 3)])
@pytest.mark.parametrize("choose", [greedy, sampler(1.0, top_k=5)])
def test_equals_a_loop_without_a_cache(scan, prefill, choose):
    model, params = model_and_params(scan)
    expected = naive(model, params, choose)
    np.testing.assert_array_equal(run(model, params, choose, prefill), expected)
    if choose is not greedy and not scan:
        # Rows of every kind: ended and padded, and filled up.
        ended = (expected[:, 3:] == END).any(axis=1)
        assert ended.any() and not ended.all()


def count_step(log, tokens, cache, index):
    """Logits whose largest is the token after the given one; `log` sees each call as it runs."""
    jax.debug.callback(lambda index: log.append(int(index)), index, ordered=True)
    return jax.nn.one_hot((tokens + 1) % VOCAB, VOCAB), cache


def count_on(log, prompt, lengths, max_length, end_token, prefill=1, limit=None):
    tokens = generate(
        functools.partial(count_step, log),
        jnp.zeros(len(prompt)),
        jnp.array(prompt),
        jnp.array(lengths),
        max_length=max_length,
        end_token=end_token,
        pad_token=-1,
        choose=greedy,
        rng=jax.random.key(0),
        prefill=prefill,
        limit=None if limit is None else jnp.array(limit),
    )
    jax.effects_barrier()
    return tokens.tolist()


def test_prompts_go_through_in_pieces_to_the_end_of_the_shortest():
    log = []
    tokens = count_on(log, [[1, 2, 3, 4, 5, 6, 0], [6, 5, 4, 3, 2, 1, 0]], [6, 5], 8, end_token=9, prefill=2)
    assert tokens == [[1, 2, 3, 4, 5, 6, 0, 1], [6, 5, 4, 3, 2, 3, 4, 5]]
    assert log == [0, 2, 4, 5, 6]
    log = []  # the second piece would reach beyond the prompts, and so begins earlier
    tokens = count_on(log, [[1, 2, 3, 4, 5], [6, 5, 4, 3, 2]], [5, 5], 7, end_token=9, prefill=3)
    assert tokens == [[1, 2, 3, 4, 5, 6, 0], [6, 5, 4, 3, 2, 3, 4]] and log == [0, 2, 4, 5]
    log = []
    assert count_on(log, [[1, 2, 3, -1, -1]], [3], 5, end_token=9, prefill=5) == [[1, 2, 3, 4, 5]]
    assert log == [0, 2, 3]


@pytest.mark.parametrize("prefill", [1, 2, 3])
def test_prompts_of_unequal_length_answer_as_they_do_alone(prefill):
    model, params = model_and_params()
    together = run(model, params, greedy, prefill)
    for row, length in enumerate(PROMPT_LENGTH):
        alone = run(model, params, greedy, prefill, PROMPT[row : row + 1], PROMPT_LENGTH[row : row + 1])
        np.testing.assert_array_equal(together[row], alone[0])
        np.testing.assert_array_equal(together[row, :length], PROMPT[row, :length])


def test_a_penalty_is_of_all_that_a_row_holds():
    """Against numpy, position by position, with a model that never ends."""
    model, params = model_and_params()

    def endless(logits, rng):
        return greedy(forbid(logits, [END]), rng)

    found = run(model, params, endless, penalty=3.0)
    for row, length in enumerate(PROMPT_LENGTH):
        tokens = list(map(int, PROMPT[row, :length]))
        while len(tokens) < LENGTH:
            logits = np.float64(model.apply(params, jnp.array([tokens])))[0, -1]
            seen = sorted({*tokens})
            logits[seen] = np.where(logits[seen] > 0, logits[seen] / 3, logits[seen] * 3)
            logits[END] = -np.inf
            tokens.append(int(logits.argmax()))
        assert found[row].tolist() == tokens
    assert (found != run(model, params, endless)).any()


def test_stops_when_every_row_has_ended():
    log = []
    tokens = count_on(log, [[3], [1]], [1, 1], 8, end_token=4)
    assert tokens == [[3, 4, -1, -1, -1, -1, -1, -1], [1, 2, 3, 4, -1, -1, -1, -1]]
    assert log == [0, 1, 2]


def test_a_row_ends_at_its_limit():
    log = []
    tokens = count_on(log, [[3, 0], [1, 2]], [1, 2], 8, end_token=6, limit=[3, 4])
    assert tokens == [[3, 4, 5, -1, -1, -1, -1, -1], [1, 2, 3, 4, -1, -1, -1, -1]]
    assert log == [0, 1, 2]


def test_an_end_token_inside_a_prompt_ends_nothing():
    tokens = count_on([], [[4, 4, 1], [1, 0, 0]], [3, 1], 6, end_token=4)
    assert tokens == [[4, 4, 1, 2, 3, 4], [1, 2, 3, 4, -1, -1]]


def test_a_prompt_as_long_as_the_answer_comes_back():
    assert count_on([], [[1, 5]], [2], 2, end_token=4) == [[1, 5]]
    assert count_on([], [[1, 5]], [2], 2, end_token=4, prefill=2) == [[1, 5]]


@pytest.mark.parametrize(
    ("max_length", "prefill", "message"),
    [
        (8, 0, "prefill 0 does not fit prompts of 2: use 1 to 2"),
        (8, 3, "prefill 3 does not fit prompts of 2: use 1 to 2"),
        (1, 1, "max_length 1 is shorter than the prompt: use at least 2"),
    ],
)
def test_lengths_that_do_not_fit_are_named(max_length, prefill, message):
    with pytest.raises(UserError, match=message):
        count_on([], [[1, 5]], [2], max_length, end_token=4, prefill=prefill)


@pytest.mark.parametrize("stops", [range(1, LENGTH + 1), [5, LENGTH]])
def test_the_tokens_do_not_depend_on_where_a_generation_pauses(stops):
    model, params = model_and_params()
    whole = np.asarray(run(model, params, sampler(1.0), prefill=2))

    def step(tokens, cache, index):
        logits, state = model.apply({**params, "cache": cache}, tokens, cache_index=index, mutable=["cache"])
        return logits, state["cache"]

    fields = {"end_token": END, "pad_token": PAD, "choose": sampler(1.0), "rng": jax.random.key(5)}
    generation = Generation(step, PROMPT, PROMPT_LENGTH, **fields)
    state = generation.begin(init_cache(model, jnp.zeros((len(PROMPT), LENGTH), jnp.int32)), LENGTH, 2)
    advance = jax.jit(generation.advance)
    for stop in stops:
        state = advance(state, stop)
        written = max(stop, 2)  # the first token is there from the start
        np.testing.assert_array_equal(state.tokens[:, 2:written], whole[:, 2:written])
        assert (state.tokens[:, max(written, 3) :] == PAD).all()
    np.testing.assert_array_equal(state.tokens, whole)
