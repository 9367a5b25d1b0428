"""Beam search with GNMT's length penalty (Wu et al. 2016, section 7), in one compiled loop."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, Int32

from research.decoding.cache import Cache, gather_cache, repeat_cache
from research.decoding.generate import Step
from research.errors import UserError


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

    step: as for `generate`; called with `batch` rows of prompts, then with the `beam_size` hypotheses of each row in
        consecutive rows. A token whose logit is -inf is never produced.
    cache: of `batch` rows; entries that beams share keep so many (see `repeat_cache`).
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

    def body(state):
        index, beams, cache = state
        logits, cache = step(beams.tokens[:, :, index - 1].reshape(-1, 1), cache, index - 1)
        beams, origin = extend(index, beams, logits[:, -1].reshape(batch, beam_size, -1))
        rows = origin + beam_size * jnp.arange(batch)[:, None]
        return index + 1, beams, gather_cache(cache, rows.reshape(-1))

    def running(state):
        return (state[1].scores[:, 0] > -jnp.inf).any()

    logits, cache = step(prompt, cache, jnp.int32(0))
    beams, _ = extend(jnp.int32(start), beams, jnp.repeat(logits[:, -1:], beam_size, axis=1))
    state = (jnp.int32(start + 1), beams, repeat_cache(cache, beam_size))
    beams = jax.lax.while_loop(running, body, state)[1]
    return beams.ended_tokens, beams.ended_scores


def _extend(
    beams: _Beams,
    logits: Float[Array, "batch beams vocab"],
    index: Int[Array, ""],
    start: int,
    limit: Int[Array, "batch"],
    end_token: int,
    length_penalty: float,
) -> tuple[_Beams, Int32[Array, "batch beams"]]:
    """Hypotheses with their token at `index`, and the beam that each live one comes from."""
    beam_size, vocab_size = logits.shape[1:]
    log_normaliser = jax.nn.logsumexp(logits, axis=-1)
    ending = _without_nan(beams.scores + logits[..., end_token] - log_normaliser)
    # Of a beam's beam_size + 1 best tokens at most one is the end token.
    values, tokens = _top_tokens(logits, min(beam_size + 1, vocab_size))
    scores = _without_nan(beams.scores[..., None] + values - log_normaliser[..., None])
    scores, chosen = _top(jnp.where(tokens == end_token, -jnp.inf, scores), beam_size)
    origin = chosen // tokens.shape[-1]
    chosen_tokens = jnp.take_along_axis(tokens.reshape(len(tokens), -1), chosen, axis=1)
    live_tokens = _pick(beams.tokens, origin).at[:, :, index].set(chosen_tokens.astype(beams.tokens.dtype))

    def normalise(scores, length):
        return scores / ((5 + length[:, None]) / 6) ** length_penalty

    cut = (index + 1 >= limit)[:, None]
    ending = jnp.concatenate([ending, jnp.where(cut, scores, -jnp.inf)], axis=1)
    candidates = jnp.concatenate([beams.tokens.at[:, :, index].set(end_token), live_tokens], axis=1)
    ending = normalise(ending, jnp.full(len(limit), index + 1 - start))
    # Ended ones come first: of equal scores the older one stays.
    ended_scores, best = _top(jnp.concatenate([beams.ended_scores, ending], axis=1), beams.ended_scores.shape[1])
    ended_tokens = _pick(jnp.concatenate([beams.ended_tokens, candidates], axis=1), best)

    # A log-probability can only fall; the longest hypothesis divides it by most.
    bound = normalise(scores, limit - start)
    scores = jnp.where(cut | (bound[:, :1] <= ended_scores[:, -1:]), -jnp.inf, scores)
    return _Beams(live_tokens, scores, ended_tokens, ended_scores), origin


def _top_tokens(logits: Float[Array, "batch beams vocab"], count: int) -> tuple[Array, Array]:
    """`jax.lax.top_k` in two stages, since on a CPU it is slow on a whole vocabulary.

    The largest logits lie in the `count` groups with the largest maxima; both stages look at about as many numbers.
    """
    vocab_size = logits.shape[-1]
    size = math.isqrt(vocab_size // count) + 1
    padding = [(0, 0), (0, 0), (0, -vocab_size % size)]
    maxima = jnp.pad(logits, padding, constant_values=-jnp.inf).reshape(*logits.shape[:2], -1, size).max(axis=-1)
    _, groups = jax.lax.top_k(maxima, min(count, maxima.shape[-1]))
    tokens = (jnp.sort(groups)[..., None] * size + jnp.arange(size)).reshape(*logits.shape[:2], -1)
    values = jnp.take_along_axis(logits, tokens, axis=-1, mode="fill", fill_value=-jnp.inf)
    values, chosen = jax.lax.top_k(values, count)
    return values, jnp.minimum(jnp.take_along_axis(tokens, chosen, axis=-1), vocab_size - 1)


def _top(scores: Float[Array, "batch *beams"], count: int) -> tuple[Array, Array]:
    """The largest scores of each row, and where in the flat row they stand."""
    values, places = jax.lax.top_k(scores.reshape(len(scores), -1), count)
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
