import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.decoding.beam import beam_search
from research.decoding.sampling import forbid
from research.errors import UserError
from tests.decoding.beam_reference import final_score, reference_beam_search

VOCAB, BOS, END, PAD = 4, 0, 2, -1
LENGTH = 6  # with BOS
ALPHAS = [0.0, 0.6, 1.5]


def make_tables(seed, batch=3):
    """Logits of a model that sees its whole prefix: the sum of a table's entries, one for each position and token."""
    return np.random.default_rng(seed).normal(size=(batch, LENGTH, VOCAB, VOCAB)) * 1.5


def log_softmax(logits):
    largest = logits.max()
    return logits - largest - np.log(np.exp(logits - largest).sum())


def next_log_probabilities(table):
    return lambda tokens: log_softmax(sum(table[position, token] for position, token in enumerate(tokens)))


def search(tables, *, prompt=None, forbidden=(), spoil=None, log=None, **options):
    """Tokens and scores; the prefix lives in the cache, the tables in its shared part."""
    tables = jnp.float32(tables)
    batch = len(tables)
    prompt = jnp.full((batch, 1), BOS) if prompt is None else jnp.asarray(prompt)
    options = {"beam_size": 3, "max_length": LENGTH, "length_penalty": 0.6, "limit": None, **options}

    def step(tokens, cache, index):
        if log is not None:
            jax.debug.callback(lambda index: log.append(int(index)), index, ordered=True)
        prefix = jax.lax.dynamic_update_slice_in_dim(cache["self"], tokens, index, axis=1)
        picked = jnp.take_along_axis(cache["cross_attention"], prefix[:, :, None, None], axis=2)[:, :, 0]
        written = jnp.arange(LENGTH) < index + tokens.shape[1]
        logits = jnp.where(written[None, :, None], picked, 0.0).sum(axis=1)[:, None]
        if spoil is not None:
            logits = jnp.where((prefix == spoil).any(axis=1)[:, None, None], jnp.nan, logits)
        return forbid(logits, forbidden), {"self": prefix, "cross_attention": cache["cross_attention"]}

    @jax.jit
    def run(tables, prompt, limit):
        cache = {"self": jnp.full((batch, LENGTH), BOS), "cross_attention": tables}
        return beam_search(step, cache, prompt, end_token=END, pad_token=PAD, **{**options, "limit": limit})

    tokens, scores = run(tables, prompt, options["limit"])
    jax.effects_barrier()
    return np.asarray(tokens), np.asarray(scores)


def assert_equal(tokens, scores, expected):
    """One row's hypotheses; those beyond the expected ones are empty."""
    expected = expected[: len(tokens)]
    np.testing.assert_allclose(scores[: len(expected)], [score for score, _ in expected], atol=1e-5)
    assert [row[row != PAD].tolist() for row in tokens[: len(expected)]] == [tokens for _, tokens in expected]
    assert (scores[len(expected) :] == -np.inf).all() and (tokens[len(expected) :, 1:] == PAD).all()


def exhaustive(table, limit, length_penalty):
    """Every sequence that ends, or is cut at the limit, with its score, best first."""
    follow = next_log_probabilities(table)
    found = []
    for length in range(1, limit):
        for tokens in itertools.product(range(VOCAB), repeat=length):
            if END in tokens[:-1] or (tokens[-1] != END and length < limit - 1):
                continue
            tokens = [BOS, *tokens]
            score = sum(follow(tokens[:index])[tokens[index]] for index in range(1, length + 1))
            found.append((final_score(score, length, length_penalty), tokens))
    return sorted(found, key=lambda each: -each[0])


@pytest.mark.parametrize("length_penalty", ALPHAS)
def test_a_beam_of_all_sequences_finds_what_exhaustive_search_finds(length_penalty):
    tables, limit = make_tables(0, batch=15), np.tile([5, 4, 2], 5)
    options = {"length_penalty": length_penalty, "limit": limit}
    expected = [exhaustive(*row, length_penalty) for row in zip(tables, limit, strict=True)]
    for n_best in (1, 12):
        tokens, scores = search(tables, beam_size=VOCAB**4, n_best=n_best, **options)
        for row in range(len(tables)):
            assert_equal(tokens[row], scores[row], expected[row])
    # A limit of 2 leaves room for one token, so that there are only as many hypotheses as there are tokens.
    assert np.isfinite(scores).sum(axis=1).tolist() == [12, 12, VOCAB] * 5
    scores = search(tables, beam_size=2, **options)[1]
    assert (scores[:, 0] <= np.array([row[0][0] for row in expected]) + 1e-5).all()


@pytest.mark.parametrize("length_penalty", ALPHAS)
@pytest.mark.parametrize(("beam_size", "n_best"), [(1, 1), (2, 1), (2, 4), (5, 1), (5, 4)])
def test_small_beams_equal_the_reference_that_never_stops_early(beam_size, n_best, length_penalty):
    tables, limit = make_tables(1, batch=30), np.tile([6, 5, 3], 10)
    options = {"beam_size": beam_size, "length_penalty": length_penalty}
    tokens, scores = search(tables, n_best=n_best, limit=limit, **options)
    for row, table in enumerate(tables):
        follow = next_log_probabilities(table)
        expected = reference_beam_search(follow, [BOS], limit=int(limit[row]), end_token=END, **options)
        assert_equal(tokens[row], scores[row], expected)


def test_a_prompt_of_several_tokens_is_kept_and_its_length_not_counted():
    tables, prompt = make_tables(3), [[BOS, 3], [BOS, END], [1, 1]]
    tokens, scores = search(tables, prompt=prompt, n_best=2)
    for row in range(len(prompt)):
        expected = reference_beam_search(next_log_probabilities(tables[row]), prompt[row], 3, LENGTH, END, 0.6)
        assert_equal(tokens[row], scores[row], expected)


def test_a_row_does_not_depend_on_its_neighbours():
    tables, limit, order = make_tables(5, batch=6), np.array([6, 5, 4, 3, 6, 5]), [4, 2, 0, 5, 1, 3]
    tokens, scores = search(tables, limit=limit, n_best=3)
    moved_tokens, moved_scores = search(tables[order], limit=limit[order], n_best=3)
    np.testing.assert_array_equal(moved_tokens, tokens[order])
    np.testing.assert_array_equal(moved_scores, scores[order])
    for row in range(6):
        alone_tokens, alone_scores = search(tables[row : row + 1], limit=limit[row : row + 1], n_best=3)
        np.testing.assert_array_equal(alone_tokens[0], tokens[row])
        np.testing.assert_array_equal(alone_scores[0], scores[row])


def test_what_the_logits_forbid_is_never_produced():
    tables = make_tables(6)
    tables[..., BOS] += 10.0
    tokens, _ = search(tables, n_best=40, beam_size=8)
    assert (tokens[:, :, 1:] == BOS).any()
    tokens, scores = search(tables, n_best=40, beam_size=8, forbidden=[BOS])
    assert not (tokens[:, :, 1:] == BOS).any() and np.isfinite(scores[:, :20]).all()
    # Without BOS, 2 tokens go on and 1 ends: 1 + 2 + 4 + 8 + 16 that end and 32 that are cut, of which 8 live.
    all_but_end, scores = search(tables, n_best=2, forbidden=[0, 1, 3])
    assert all_but_end[:, 0].tolist() == [[BOS, END] + [PAD] * 4] * 3
    np.testing.assert_allclose(scores, [[0.0, -np.inf]] * 3, atol=1e-6)
    nothing, scores = search(tables, n_best=2, forbidden=range(VOCAB))
    assert (nothing[..., 1:] == PAD).all() and (scores == -np.inf).all()


def test_a_hypothesis_that_turns_the_model_to_nan_spoils_no_other():
    tables = make_tables(7)
    tokens, scores = search(tables, n_best=6, beam_size=8, spoil=3)
    for row, table in enumerate(tables):
        follow = next_log_probabilities(table)

        def spoiled(tokens, follow=follow):
            return np.full(VOCAB, -np.inf) if 3 in tokens else follow(tokens)

        assert_equal(tokens[row], scores[row], reference_beam_search(spoiled, [BOS], 8, LENGTH, END, 0.6))
    tokens, scores = search(tables, spoil=BOS)
    assert (tokens[..., 1:] == PAD).all() and (scores == -np.inf).all()


def test_stops_as_soon_as_no_live_hypothesis_can_win():
    tables, log = np.zeros((2, LENGTH, VOCAB, VOCAB)), []
    tables[:, 0, :, END] = 10.0  # every hypothesis all but surely ends at once
    search(tables, log=log)
    assert log == [0]
    log.clear()
    search(tables, log=log, n_best=9)
    # 1 + 3 + 3 + 3 hypotheses have ended by then, and the limit would be one step later.
    assert log == [0, 1, 2, 3]


@pytest.mark.parametrize("vocab_size", [2, 97, 101])
@pytest.mark.parametrize("beam_size", [1, 4, 30])
def test_the_best_tokens_of_vocabularies_of_any_size_are_found(vocab_size, beam_size):
    """One step of distinct scores: the cut hypotheses are the best tokens of the whole vocabulary."""
    logits = np.random.default_rng(vocab_size).permutation(vocab_size)[None] / 10

    def step(tokens, cache, index):
        return jnp.repeat(jnp.float32(logits)[:, None], len(tokens), axis=0), cache

    found, scores = beam_search(
        step,
        {},
        jnp.zeros((1, 1), jnp.int32),
        beam_size=beam_size,
        max_length=2,
        end_token=1,
        pad_token=PAD,
        length_penalty=1.0,
        n_best=beam_size,
    )
    order = np.argsort(-logits[0])[:beam_size]
    np.testing.assert_array_equal(found[0, : len(order), 1], order)
    np.testing.assert_allclose(scores[0, : len(order)], log_softmax(logits[0])[order], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size 0 is below 1"),
        ({"n_best": 0}, "n_best 0 is below 1"),
        ({"length_penalty": -0.1}, "length_penalty -0.1 is not 0 or above"),
        ({"length_penalty": float("nan")}, "length_penalty nan is not 0 or above"),
        ({"max_length": 1}, "max_length 1 leaves no room after the prompt: use at least 2"),
    ],
)
def test_settings_out_of_range_are_named(options, message):
    with pytest.raises(UserError, match=message):
        search(make_tables(0), **options)
