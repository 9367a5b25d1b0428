"""Generation of one token after another with a cache, in one compiled loop."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from research.decoding.cache import Cache
from research.decoding.sampling import Choose, penalised
from research.errors import UserError

Step = Callable[
    [Int[Array, "batch queries"], Cache, int | Int[Array, ""]], tuple[Float[Array, "batch queries vocab"], Cache]
]
"""`step(tokens, cache, index) -> (logits, cache)` for tokens that stand at positions index, index + 1, ..."""


def generate(
    step: Step,
    cache: Cache,
    prompt: Int[Array, "batch prompt"],
    prompt_length: Int[Array, "batch"],
    *,
    max_length: int,
    end_token: int,
    pad_token: int,
    choose: Choose,
    rng: jax.Array,
    prefill: int = 1,
    penalty: float = 1.0,
    limit: Int[Array, "batch"] | None = None,
) -> Int[Array, "batch {max_length}"]:
    """Prompts and their continuations, up to `end_token` (which is kept) or `max_length` tokens, then `pad_token`.

    prompt_length: tokens of each row's prompt; what stands behind them is not read.
    prefill: tokens of the prompts that go through the model at once, as often as every row has more; the others go one
        by one, as those of a shorter row's continuation do at the same time.
    penalty: see `research.decoding.sampling.penalised`.
    limit: tokens of each row, prompt included, after which it counts as ended; `max_length` unless given.
    choose: next tokens from logits [batch, vocab] and a random key of its own for each position.
    """
    if not 1 <= prefill <= prompt.shape[1]:
        raise UserError(f"prefill {prefill} does not fit prompts of {prompt.shape[1]}: use 1 to {prompt.shape[1]}")
    if not prompt.shape[1] <= max_length:
        raise UserError(f"max_length {max_length} is shorter than the prompt: use at least {prompt.shape[1]}")
    batch = len(prompt)
    forced = jnp.pad(prompt, ((0, 0), (0, max_length - prompt.shape[1])))

    def write(index, logits, tokens, finished):
        logits = penalised(logits[:, -1], jnp.where(jnp.arange(max_length) < index, tokens, -1), penalty)
        chosen = choose(logits, jax.random.fold_in(rng, index)).astype(tokens.dtype)
        in_prompt = index < prompt_length
        token = jnp.where(in_prompt, forced[:, index], jnp.where(finished, pad_token, chosen))
        ended = token == end_token if limit is None else (token == end_token) | (index + 1 >= limit)
        return tokens.at[:, index].set(token), finished | (~in_prompt & ended)

    def body(state):
        index, tokens, finished, cache = state
        logits, cache = step(jax.lax.dynamic_slice_in_dim(tokens, index - 1, 1, axis=1), cache, index - 1)
        return index + 1, *write(index, logits, tokens, finished), cache

    def running(state):
        index, _, finished, _ = state
        return (index < max_length) & ~finished.all()

    def piece(state):
        index, cache = state
        return index + prefill, step(jax.lax.dynamic_slice_in_dim(prompt, index, prefill, axis=1), cache, index)[1]

    read = jnp.int32(0)
    if prefill > 1:
        shortest = prompt_length.min()
        read, cache = jax.lax.while_loop(lambda state: state[0] + prefill < shortest, piece, (read, cache))
    tokens = jnp.where(jnp.arange(max_length) <= read, forced, pad_token)
    return jax.lax.while_loop(running, body, (read + 1, tokens, jnp.zeros(batch, bool), cache))[1]
