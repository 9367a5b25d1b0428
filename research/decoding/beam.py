"""Beam search with GNMT's length penalty (Wu et al. 2016, section 7), in one compiled loop."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, Int32

from research.decoding.cache import Cache, gather_cache, map_rows, resize_cache
from research.decoding.generate import Step
from research.errors import UserError

_CACHE_LENGTHS = (16, 32, 64, 128, 256, 512)
"""Each compiles the step once more."""


class _Beams(NamedTuple):
    """Hypotheses of each row: live ones with their log-probabilities, ended ones with their final scores, best first.

    -inf marks a place that holds no hypothesis; a row without live ones is done.
    """

    tokens: Int[Array, "batch beams max_length"]
    scores: Float32[Array, "batch beams"]
    ended_tokens: Int[Array, "batch n_best max_length"]
    ended_scores: Float32[Array, "batch n_best"]


def beam_search(
    step: Step,
    cache: Cache,
    prompt: Int[Array, "batch prompt"],
    *,
    beam_size: int,
    max_length: int,
    end_token: int,
    pad_token: int,
    length_penalty: float,
    n_best: int = 1,
    limit: Int[Array, "batch"] | None = None,
) -> tuple[Int[Array, "batch {n_best} {max_length}"], Float32[Array, "batch {n_best}"]]:
    """The best hypotheses of each row, best first, and their scores.

    A hypothesis is the prompt and what follows it up to `end_token` (which is kept) or to the row's limit, then
    `pad_token`; where fewer are found the rest are bare prompts with score -inf. Its score is
    log p / ((5 + length) / 6)^length_penalty, where length counts the tokens after the prompt, the end token included
    (Wu et al. 2016, equation 14). A row stops when no live hypothesis can still outscore its n_best ended ones.

    step: as for `generate`; it sees one hypothesis of each row at a time. A token with logit -inf is never produced.
    cache: of `batch` rows, as for `generate`. Its shared entries (a memory's keys and values) are not copied for beams.
    limit: tokens of each row, prompt included, at most `max_length`, which it is unless given.
    """
    _check(prompt.shape[1], beam_size, max_length, length_penalty, n_best)
    batch, start = prompt.shape
    limit = jnp.full(batch, max_length) if limit is None else jnp.minimum(limit, max_length)
    tokens = jnp.pad(prompt, ((0, 0), (0, max_length - start)), constant_values=pad_token)[:, None]
    beams = _Beams(
        jnp.repeat(tokens, beam_size, axis=1),
        jnp.full((batch, beam_size), -jnp.inf).at[:, 0].set(0.0),
        jnp.repeat(tokens, n_best, axis=1),
        jnp.full((batch, n_best), -jnp.inf),
    )

    def extend(index, beams, logits):
        return _extend(beams, logits, index, start, limit, end_token, length_penalty)

    def rows(origin):
        return (origin.T * batch + jnp.arange(batch)).reshape(-1)

    def body(state):
        index, beams, cache = state
        logits, cache = _step_beams(step, beams.tokens[:, :, index - 1].T[..., None], cache, index - 1)
        beams, origin = extend(index, beams, logits[:, :, -1])
        return index + 1, beams, gather_cache(cache, rows(origin))

    logits, cache = step(prompt, cache, jnp.int32(0))
    beams, origin = extend(jnp.int32(start), beams, jnp.repeat(logits[None, :, -1], beam_size, axis=0))
    state = (jnp.int32(start + 1), beams, gather_cache(cache, rows(jnp.zeros_like(origin))))
    # Short hypotheses need no long cache: what a step costs grows with its length.
    for length in (*(size for size in _CACHE_LENGTHS if start < size and 3 * size <= 2 * max_length), max_length):

        def running(state, length=length):
            return (state[0] <= length) & (state[1].scores[:, 0] > -jnp.inf).any()

        state = jax.lax.while_loop(running, body, (*state[:2], resize_cache(state[2], length)))
    beams = state[1]
    return beams.ended_tokens, beams.ended_scores


def _step_beams(
    step: Step, tokens: Int[Array, "beams batch 1"], cache: Cache, index: Int[Array, ""]
) -> tuple[Float[Array, "beams batch 1 vocab"], Cache]:
    """A step of all beams, mapped, so that shared entries of the cache serve them all.

    The other entries have beams * batch rows: row i of beam k is row k * batch + i.
    """

    def split(leaf, axis):
        return leaf.reshape(*leaf.shape[:axis], len(tokens), -1, *leaf.shape[axis + 1 :])

    def join(leaf, axis):
        return leaf.reshape(*leaf.shape[:axis], -1, *leaf.shape[axis + 2 :])

    axes = map_rows(lambda leaf, axis: axis, cache, shared=lambda leaf: None)
    logits, cache = jax.vmap(step, (0, axes, None), (0, axes))(tokens, map_rows(split, cache), index)
    return logits, map_rows(join, cache)


def _extend(
    beams: _Beams,
    logits: Float[Array, "beams batch vocab"],
    index: Int[Array, ""],
    start: int,
    limit: Int[Array, "batch"],
    end_token: int,
    length_penalty: float,
) -> tuple[_Beams, Int32[Array, "batch beams"]]:
    """Hypotheses with their token at `index`, and the beam that each live one comes from."""
    beam_size, _, vocab_size = logits.shape
    # Of a beam's beam_size + 1 best tokens at most one is the end token.
    values, tokens = _top_tokens(logits, min(beam_size + 1, vocab_size))
    largest = values.max(axis=-1, keepdims=True)  # a slice of values would have XLA sort in place of its top-k
    log_normaliser = (largest[..., 0] + jnp.log(jnp.exp(logits - largest).sum(axis=-1))).T
    ending = _without_nan(beams.scores + logits[..., end_token].T - log_normaliser)
    values, tokens = values.swapaxes(0, 1), tokens.swapaxes(0, 1)
    scores = _without_nan(beams.scores[..., None] + values - log_normaliser[..., None])
    scores, chosen = _top(jnp.where(tokens == end_token, -jnp.inf, scores), beam_size)
    origin = chosen // tokens.shape[-1]
    chosen_tokens = jnp.take_along_axis(tokens.reshape(tokens.shape[0], -1), chosen, axis=1)
    live_tokens = _pick(beams.tokens, origin).at[:, :, index].set(chosen_tokens.astype(beams.tokens.dtype))

    def normalise(scores, length):
        return scores / ((5 + length[:, None]) / 6) ** length_penalty

    cut = (index + 1 >= limit)[:, None]
    ending = jnp.concatenate([ending, jnp.where(cut, scores, -jnp.inf)], axis=1)
    candidates = jnp.concatenate([beams.tokens.at[:, :, index].set(end_token), live_tokens], axis=1)
    ending = normalise(ending, jnp.full(limit.shape[0], index + 1 - start))
    # Ended ones come first: of equal scores the older one stays.
    ended_scores, best = _top(jnp.concatenate([beams.ended_scores, ending], axis=1), beams.ended_scores.shape[1])
    ended_tokens = _pick(jnp.concatenate([beams.ended_tokens, candidates], axis=1), best)

    # A log-probability can only fall; the longest hypothesis divides it by most.
    bound = normalise(scores, limit - start)
    scores = jnp.where(cut | (bound[:, :1] <= ended_scores[:, -1:]), -jnp.inf, scores)
    return _Beams(live_tokens, scores, ended_tokens, ended_scores), origin


def _top_tokens(logits: Float[Array, "beams batch vocab"], count: int) -> tuple[Array, Array]:
    """`jax.lax.top_k` in two stages, since on a CPU it is slow on a whole vocabulary.

    The `count` largest logits are in the `count` groups with the largest maxima; both stages look at about as many.
    """
    vocab_size = logits.shape[-1]
    size = math.isqrt(vocab_size // count) + 1
    num_groups = -(-vocab_size // size)
    # Group i holds token i of each piece. Maxima of slices read the logits once; those of a reshaped array, twice.
    *pieces, last = (logits[..., start : start + num_groups] for start in range(0, vocab_size, num_groups))
    last = jnp.pad(last, [(0, 0), (0, 0), (0, num_groups - last.shape[-1])], constant_values=-jnp.inf)
    _, groups = jax.lax.top_k(functools.reduce(jnp.maximum, pieces, last), min(count, num_groups))
    tokens = groups[..., None] + num_groups * jnp.arange(len(pieces) + 1)
    tokens = tokens.reshape(*groups.shape[:2], -1)
    values = jnp.take_along_axis(logits, tokens, axis=-1, mode="fill", fill_value=-jnp.inf)
    values, chosen = jax.lax.top_k(values, count)
    return values, jnp.minimum(jnp.take_along_axis(tokens, chosen, axis=-1), vocab_size - 1)


def _top(scores: Float[Array, "batch *beams"], count: int) -> tuple[Array, Array]:
    """The largest scores of each row, and where in the flat row they stand."""
    values, places = jax.lax.top_k(scores.reshape(scores.shape[0], -1), count)
    return values, places


def _pick(tokens: Int[Array, "batch beams length"], beams: Int[Array, "batch picked"]) -> Int[Array, "batch picked _"]:
    return jnp.take_along_axis(tokens, beams[..., None], axis=1)


def _without_nan(scores: Float[Array, "..."]) -> Float[Array, "..."]:
    """NaN as -inf: a model that fails on one hypothesis spoils no other."""
    return jnp.where(jnp.isnan(scores), -jnp.inf, scores)


def _check(start: int, beam_size: int, max_length: int, length_penalty: float, n_best: int) -> None:
    if beam_size < 1:
        raise UserError(f"beam_size {beam_size} is below 1: use one such as 5, or 1 for greedy search")
    if n_best < 1:
        raise UserError(f"n_best {n_best} is below 1: use at least 1")
    if not 0 <= length_penalty < float("inf"):
        raise UserError(
            f"length_penalty {length_penalty} is not 0 or above: use 0 for none, 0.6 as the Transformer did"
        )
    if not start < max_length:
        raise UserError(f"max_length {max_length} leaves no room after the prompt: use at least {start + 1}")
