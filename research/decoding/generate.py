"""Generation of one token after another with a cache, in one compiled loop."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.decoding.cache import Cache
from research.decoding.sampling import Choose, penalised
from research.errors import UserError

Step = Callable[
    [Int[Array, "batch queries"], Cache, int | Int[Array, ""]], tuple[Float[Array, "batch queries vocab"], Cache]
]
"""`step(tokens, cache, index) -> (logits, cache)` for tokens that stand at positions index, index + 1, ..."""


class State(NamedTuple):
    """How far a generation has come: the tokens before `index` are written."""

    index: Int[Array, ""]
    tokens: Int[Array, "batch length"]
    finished: Bool[Array, "batch"]
    cache: Cache


@dataclasses.dataclass(frozen=True)
class Generation:
    """Continues prompts; see `generate` for the fields. Whoever shows tokens as they come calls `advance` again and
    again: the tokens do not depend on where it stops.

    prompt: [batch, prompt]; prompt_length: of each row, [batch].
    """

    step: Step
    prompt: Int[Array, "batch prompt"]
    prompt_length: Int[Array, "batch"]
    end_token: int
    pad_token: int
    choose: Choose
    rng: jax.Array
    penalty: float = 1.0
    limit: Int[Array, "batch"] | None = None

    def begin(self, cache: Cache, max_length: int, prefill: int = 1) -> State:
        """The state once what all prompts have but its last token is read, `prefill` tokens at a time.

        What the last piece reads behind it is written again when its turn comes. Raises UserError for an unfit size.
        """
        batch, width = self.prompt.shape
        if not 1 <= prefill <= width:
            raise UserError(f"prefill {prefill} does not fit prompts of {width}: use 1 to {width}")
        if not width <= max_length:
            raise UserError(f"max_length {max_length} is shorter than the prompt: use at least {width}")

        def piece(state):
            index, cache = state
            start = jnp.minimum(index, width - prefill)
            tokens = jnp.maximum(jax.lax.dynamic_slice_in_dim(self.prompt, start, prefill, axis=1), 0)
            return index + prefill, self.step(tokens, cache, start)[1]

        read = jnp.int32(0)
        if prefill > 1:
            last = self.prompt_length.min() - 1
            _, cache = jax.lax.while_loop(lambda state: state[0] < last, piece, (read, cache))
            read = jnp.maximum(last, 0)
        tokens = jnp.where(jnp.arange(max_length) <= read, self._forced(max_length), self.pad_token)
        return State(read + 1, tokens, jnp.zeros(batch, bool), cache)

    def advance(self, state: State, until: int | Int[Array, ""]) -> State:
        """The state once the tokens before `until` are written, or all rows have ended."""
        forced = self._forced(state.tokens.shape[1])

        def running(state):
            return (state.index < until) & ~state.finished.all()

        def body(state):
            index, tokens, finished, cache = state
            logits, cache = self.step(jax.lax.dynamic_slice_in_dim(tokens, index - 1, 1, axis=1), cache, index - 1)
            before = jnp.where(jnp.arange(tokens.shape[1]) < index, tokens, -1)
            logits = penalised(logits[:, -1], before, self.penalty)
            chosen = self.choose(logits, jax.random.fold_in(self.rng, index)).astype(tokens.dtype)
            in_prompt = index < self.prompt_length
            token = jnp.where(in_prompt, forced[:, index], jnp.where(finished, self.pad_token, chosen))
            ended = token == self.end_token
            if self.limit is not None:
                ended |= index + 1 >= self.limit
            return State(index + 1, tokens.at[:, index].set(token), finished | (~in_prompt & ended), cache)

        return jax.lax.while_loop(running, body, state)

    def _forced(self, max_length: int) -> Int[Array, "batch {max_length}"]:
        return jnp.pad(self.prompt, ((0, 0), (0, max_length - self.prompt.shape[1])))


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
    prefill: tokens that go through the model at once, up to the end of the shortest prompt; those of longer ones go one
        by one, as those of a shorter row's continuation do at the same time. `step` has to keep what it knows of each
        token at its place in the cache, as attention does.
    penalty: see `research.decoding.sampling.penalised`.
    limit: tokens of each row, prompt included, after which it counts as ended; `max_length` unless given.
    choose: next tokens from logits [batch, vocab] and a random key of its own for each position.
    """
    fields = {"end_token": end_token, "pad_token": pad_token, "choose": choose, "rng": rng}
    generation = Generation(step, prompt, prompt_length, **fields, penalty=penalty, limit=limit)
    return generation.advance(generation.begin(cache, max_length, prefill), max_length).tokens
