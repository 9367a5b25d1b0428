import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.decoding.sampling import forbid, greedy, sampler, truncate
from research.errors import UserError

LOGITS = np.random.default_rng(0).normal(size=(3, 7)) * 2


def kept_by_brute_force(logits, top_k, top_p):
    """Tokens kept of one row: the k most probable, then the smallest set of these whose probability reaches p."""
    tokens = sorted(range(len(logits)), key=lambda token: -logits[token])[: top_k or len(logits)]
    if top_p is None:
        return set(tokens)
    probability = np.exp(logits)
    total = probability[tokens].sum()
    for size in range(1, len(tokens) + 1):
        sets = itertools.combinations(tokens, size)
        best = max(sets, key=lambda chosen: probability[list(chosen)].sum())
        if probability[list(best)].sum() / total >= top_p:
            return set(best)
    return set(tokens)


@pytest.mark.parametrize("top_k", [None, 1, 3, 100])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.5, 0.9, 1.0])
def test_truncation_keeps_the_sets_that_brute_force_keeps(top_k, top_p):
    truncated = truncate(jnp.float32(LOGITS), top_k, top_p)
    for row, logits in zip(truncated, LOGITS, strict=True):
        kept = kept_by_brute_force(logits, top_k, top_p)
        assert set(np.flatnonzero(np.isfinite(row))) == kept
        np.testing.assert_allclose(np.asarray(row)[sorted(kept)], logits[sorted(kept)], rtol=1e-6)


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.0, None, None), (0.5, 4, None), (2.0, None, 0.8)])
def test_frequencies_are_the_softmax_of_what_is_kept(temperature, top_k, top_p):
    draws, logits = 20_000, LOGITS[0]
    rows = jnp.broadcast_to(jnp.float32(logits), (draws, len(logits)))
    tokens = sampler(temperature, top_k, top_p)(rows, jax.random.key(0))
    kept = sorted(kept_by_brute_force(logits / temperature, top_k, top_p))
    expected = np.zeros(len(logits))
    expected[kept] = np.exp(logits[kept] / temperature) / np.exp(logits[kept] / temperature).sum()
    np.testing.assert_allclose(np.bincount(tokens, minlength=len(logits)) / draws, expected, atol=0.015)


def test_forbidden_tokens_have_no_probability_and_the_others_keep_their_logits():
    forbidden = forbid(jnp.float32(LOGITS), [0, 5])
    assert (forbidden[:, [0, 5]] == -jnp.inf).all()
    np.testing.assert_array_equal(np.delete(forbidden, [0, 5], axis=1), np.delete(np.float32(LOGITS), [0, 5], axis=1))


def test_greedy_takes_the_largest():
    np.testing.assert_array_equal(greedy(jnp.float32(LOGITS), jax.random.key(0)), LOGITS.argmax(axis=-1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), "temperature 0.0 is not above 0"),
        ((float("inf"),), "temperature inf is not"),
        ((float("nan"),), "temperature nan is not"),
        ((1.0, 0), "top_k 0 is below 1"),
        ((1.0, None, 0.0), "top_p 0.0 is not above 0"),
        ((1.0, None, 1.5), "top_p 1.5 is not above 0 and at most 1"),
    ],
)
def test_settings_out_of_range_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        sampler(*arguments)
