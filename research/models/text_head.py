"""A linear layer on any encoder of text: for classes of texts, tags of tokens, or the two ends of an answer."""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from research.errors import UserError
from research.layers.embedding import float32_dot_general
from research.models.bert import sentence_vectors
from research.models.contract import TextEncoder
from research.ranges import Rate

Pooling = Literal["cls", "pooler", "mean", "max", "last"]
"""How one vector is made of a text's states: that of its first token, the same behind the pooler (BERT's), the mean or
the maximum of all, or that of its last token (for a GPT, whose other states have not seen all of the text)."""


class TextHead(nn.Module):
    """An encoder with a new layer `head`; all other parameters have the paths that they have in the encoder alone.

    Fields:
        outputs: numbers that come out for each text, or for each token where there is no `pool`.
        dropout: rate on the states or the vector that the layer reads.
    """

    body: nn.Module
    outputs: int
    pool: Pooling | None = None
    dropout: Rate = 0.1

    def setup(self):
        if not isinstance(self.body, TextEncoder):
            raise UserError(f"model {type(self.body).__name__} gives no states of a text's tokens: use bert or gpt")
        nn.share_scope(self, self.body)
        self.head = nn.Dense(
            self.outputs, kernel_init=nn.initializers.truncated_normal(0.02), dot_general=float32_dot_general
        )
        self.head_dropout = nn.Dropout(self.dropout)

    def __call__(
        self,
        tokens: Int[Array, "batch length"],
        valid: Bool[Array, "batch length"],
        segments: Int[Array, "batch length"] | None = None,
        *,
        train: bool = False,
    ) -> Float32[Array, "batch outputs"] | Float32[Array, "batch length outputs"]:
        """Logits. valid: which tokens are not padding. segments: 0, and 1 for the second of two texts (0 unless
        given)."""
        body: Any = self.body
        if self.pool == "pooler":
            x = body.pooled(tokens, valid, segments, train=train)
        else:
            x = pooled(body.text_states(tokens, valid, segments, train=train), valid, self.pool)
        return self.head(self.head_dropout(x, deterministic=not train))


def pooled(
    states: Float[Array, "batch length width"], valid: Bool[Array, "batch length"], pool: Pooling | None
) -> Float[Array, "batch *length width"]:
    """One vector for each text, or all states without a `pool`."""
    if pool is None:
        return states
    if pool == "last":
        last = valid.sum(axis=1) - 1
        return jnp.take_along_axis(states, jnp.maximum(last, 0)[:, None, None], axis=1)[:, 0]
    assert pool != "pooler"
    return sentence_vectors(states, valid, pool, normalise=False).astype(states.dtype)
