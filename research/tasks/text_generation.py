"""What tasks share whose models write a text: the loss of its tokens, and the text itself, token after token."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from research.data.tokenizer import TrainedTokenizer
from research.decoding.beam import beam_search
from research.decoding.cache import init_cache
from research.decoding.generate import generate
from research.decoding.sampling import Choose, forbid, greedy
from research.tasks.logits import Logits, vocabulary_sums
from research.tasks.task import Apply, Metrics
from research.tasks.vocabulary import padding_of


def written_logits(
    apply: Apply, inputs: tuple, labels: jax.Array, weights: jax.Array, pad: int
) -> tuple[tuple[Logits, ...], Mapping[str, Any]]:
    """Those of tokens, int32 [batch, length], that follow the model's `inputs`, and the model's updates.

    weights: of the rows, float32 [batch]. pad: the token that does not count.
    """
    (states, table), updates = apply(*inputs, method="features")
    return (Logits(states, (labels != pad) * weights[:, None], table),), updates


def written_metrics(logits: Sequence[Logits], labels: jax.Array, smoothing: float) -> Metrics:
    """The metrics of tokens, int32 [batch, length], from their logits."""
    (each,) = logits
    sums = vocabulary_sums(each, labels, smoothing)
    names = ("loss", "nats_per_token", "token_accuracy")
    return {name: (total, each.weights.sum()) for name, total in zip(names, sums, strict=True)}


def write(
    model: nn.Module,
    variables: Mapping[str, Any],
    memory: jax.Array,
    valid: jax.Array,
    vocabulary: TrainedTokenizer,
    *,
    max_length: int,
    limit: jax.Array,
    beam_size: int,
    length_penalty: float,
    choose: Choose = greedy,
    rng: jax.Array | None = None,
) -> jax.Array:
    """Texts by the model's method `decode`, int32 [batch, max_length]: start, tokens, end, then PAD.

    memory: what the encoder made, [batch, source, width]. valid: what of it is not padding, bool [batch, source].
    limit: tokens of each row at most, int32 [batch]. beam_size: 1 takes the tokens of `choose` one by one.
    """

    def step(tokens, cache, index, memory=None):
        logits, updates = model.apply(
            {**variables, "cache": cache}, tokens, memory, valid, cache_index=index, method="decode", mutable=["cache"]
        )
        never = [padding_of(vocabulary), vocabulary.start_token, *range(vocabulary.vocab_size, logits.shape[-1])]
        return forbid(logits, never), updates["cache"]

    prompt = jnp.full((memory.shape[0], 1), vocabulary.start_token, jnp.int32)
    cache = init_cache(model, jnp.zeros((memory.shape[0], max_length), jnp.int32), memory, valid, method="decode")
    # The encoder's keys and values are projected once, into the cache.
    _, cache = step(prompt, cache, jnp.int32(0), memory)
    shared = {
        "max_length": max_length,
        "limit": limit,
        "end_token": vocabulary.end_token,
        "pad_token": padding_of(vocabulary),
    }
    if beam_size == 1:
        rng = jax.random.key(0) if rng is None else rng
        return generate(step, cache, prompt, jnp.ones(memory.shape[0], jnp.int32), choose=choose, rng=rng, **shared)
    tokens, _ = beam_search(step, cache, prompt, beam_size=beam_size, length_penalty=length_penalty, **shared)
    return tokens[:, 0]
