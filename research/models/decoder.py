"""The decoder of "Attention Is All You Need" on its own, as a language model (Liu et al. 2018)."""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int

from research.layers.embedding import TokenEmbedding, vocabulary_logits
from research.layers.feed_forward import Activation
from research.layers.positions import sinusoidal
from research.layers.transformer import TransformerLayer, TransformerStack
from research.ranges import Layers, Rate, Size


class Decoder(nn.Module):
    """Post-LN causal Transformer with sinusoidal positions and an output table of its own; GPT is its pre-LN successor.

    Fields:
        mlp_width: 4 · width unless given.
        head_size: of queries, keys and values; width / num_heads unless given.
    """

    vocab_size: Size
    num_layers: Layers
    width: Size
    num_heads: Size
    mlp_width: Size | None = None
    activation: Activation = "relu"
    dropout: Rate = 0.0
    head_size: Size | None = None

    def __call__(
        self, tokens: Int[Array, "batch length"], *, train: bool = False
    ) -> Float32[Array, "batch length vocab"]:
        """Logits of the token that follows each token."""
        return vocabulary_logits(*self.features(tokens, train=train))

    @nn.compact
    def features(
        self, tokens: Int[Array, "batch length"], *, train: bool = False
    ) -> tuple[Float[Array, "batch length width"], Float[Array, "vocab width"]]:
        """What the logits of `__call__` are the product of: a state for each token, and the output table."""
        embed = functools.partial(TokenEmbedding, self.vocab_size, self.width, scale=True)
        x = embed(name="embedding")(tokens)
        x += sinusoidal(jnp.arange(tokens.shape[1]), self.width).astype(x.dtype)
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        layer = functools.partial(
            TransformerLayer,
            num_heads=self.num_heads,
            mlp_width=self.mlp_width or 4 * self.width,
            head_size=self.head_size,
            activation=self.activation,
            dropout=self.dropout,
            causal=True,
        )
        stack = TransformerStack(layer, self.num_layers, name="decoder")
        x = stack(x, train=train)
        return x, embed(name="output_embedding").embedding
