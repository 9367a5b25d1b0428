"""Choices of the next token from its logits: functions `choose(logits, rng) -> tokens`."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from research.errors import UserError

Choose = Callable[[Float[Array, "batch vocab"], jax.Array], Int[Array, "batch"]]


def greedy(logits: Float[Array, "batch vocab"], rng: jax.Array) -> Int[Array, "batch"]:
    """The most probable token; the first of equal ones. `rng` is not used."""
    return logits.argmax(axis=-1)


def forbid(logits: Float[Array, "*shape vocab"], tokens: Sequence[int]) -> Float[Array, "*shape vocab"]:
    """Logits with -inf for tokens that no decoder may produce, such as padding and the start marker."""
    return logits.at[..., jnp.asarray(tokens, jnp.int32)].set(-jnp.inf)


def penalised(
    logits: Float[Array, "batch vocab"], tokens: Int[Array, "batch length"], penalty: float
) -> Float[Array, "batch vocab"]:
    """Logits of tokens that are there already, divided by the penalty where positive and multiplied by it elsewhere.

    Keskar et al. 2019, section 4.1, as most tools do it. tokens: what each row holds, prompt included; negative ones
    are none. A penalty of 1 changes nothing.
    """
    if penalty == 1:
        return logits
    rows, places = jnp.arange(logits.shape[0])[:, None], jnp.where(tokens < 0, logits.shape[-1], tokens)
    there = jnp.zeros(logits.shape, bool).at[rows, places].set(True, mode="drop")
    return jnp.where(there, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def sampler(temperature: float, top_k: int | None = None, top_p: float | None = None) -> Choose:
    """Draws from softmax(logits / temperature), cut to the `top_k` tokens, then to the nucleus `top_p` of these."""
    if not 0 < temperature < float("inf"):
        raise UserError(
            f"temperature {temperature} is not above 0: use a small one such as 0.1 to sample almost greedily"
        )
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k {top_k} is below 1: use at least 1, or none to keep every token")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p {top_p} is not above 0 and at most 1: use one such as 0.9, or none to keep every token")

    def choose(logits: Float[Array, "batch vocab"], rng: jax.Array) -> Int[Array, "batch"]:
        return jax.random.categorical(rng, truncate(logits / temperature, top_k, top_p))

    return choose


def truncate(
    logits: Float[Array, "batch vocab"], top_k: int | None = None, top_p: float | None = None
) -> Float[Array, "batch vocab"]:
    """Logits with -inf outside the `top_k` largest (Fan et al. 2018), then outside the nucleus of what is left.

    The nucleus is the smallest set of the most probable tokens that holds at least `top_p` of the probability (Holtzman
    et al. 2020, equation 2). Tokens that tie with the last one kept are kept too.
    """
    if top_k is not None:
        smallest = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][:, -1:]
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    if top_p is not None:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probability = jax.nn.softmax(ordered)
        before = probability.cumsum(axis=-1) - probability
        smallest = jnp.where(before < top_p, ordered, jnp.inf).min(axis=-1, keepdims=True)
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    return logits
