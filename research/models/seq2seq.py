"""The encoder-decoder Transformer of "Attention Is All You Need" (Vaswani et al. 2017)."""

import functools
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from research.layers.embedding import TokenEmbedding, vocabulary_logits
from research.layers.feed_forward import Activation
from research.layers.masks import padding_mask
from research.layers.norms import NormKind
from research.layers.positions import LearnedPositions, sinusoidal
from research.layers.transformer import TransformerLayer, TransformerStack
from research.ranges import Layers, Positive, Rate, Size

SIZES = {
    "base": {"num_layers": 6, "width": 512, "num_heads": 8, "mlp_width": 2048, "dropout": 0.1},
    "big": {"num_layers": 6, "width": 1024, "num_heads": 16, "mlp_width": 4096, "dropout": 0.3},
}
"""The fields that tell the paper's base model from its big one (table 3)."""


class Seq2Seq(nn.Module):
    """Figure 1 of the paper; the defaults are its base model.

    Fields:
        num_decoder_layers: `num_layers` unless given.
        head_size, value_size: d_k and d_v; width / num_heads and `head_size` unless given.
        positions: "sinusoidal" and "learned" are added to the embeddings, "rotary", "shaw" and "relative_bias" act
            inside self-attention; "sinusoidal_halves" has all sines before all cosines, as Marian does. With "none" the
            encoder reads a set, and only the decoder's causal mask tells its tokens' order.
        max_length: rows of the learned tables.
        share_embeddings: one table for source, target and output (section 3.4), otherwise three.
        own_output: with share_embeddings, the output has a table of its own.
        output_bias: a bias for each token's logit, which Marian has.
        scale_embeddings: by sqrt(width) (section 3.4). scale_outputs: divides the states by sqrt(width) before the
            output table. scale_attention: see `MultiHeadAttention.scaled`. T5 (Raffel et al. 2020) has the second
            alone, or none with an output table of its own.
        norm_kind, norm_epsilon, use_bias: see `TransformerLayer`; T5 has RMSNorm and no biases.
    """

    vocab_size: Size
    num_layers: Layers = 6
    num_decoder_layers: Layers | None = None
    width: Size = 512
    num_heads: Size = 8
    head_size: Size | None = None
    value_size: Size | None = None
    mlp_width: Size = 2048
    activation: Activation = "relu"
    norm: Literal["post", "pre"] = "post"
    dropout: Rate = 0.1
    attention_dropout: Rate = 0.0
    activation_dropout: Rate = 0.0
    positions: Literal["sinusoidal", "sinusoidal_halves", "learned", "rotary", "shaw", "relative_bias", "none"] = (
        "sinusoidal"
    )
    max_length: Size = 1024
    share_embeddings: bool = True
    own_output: bool = False
    output_bias: bool = False
    scale_embeddings: bool = True
    scale_outputs: bool = False
    scale_attention: bool = True
    norm_kind: NormKind = "layer"
    norm_epsilon: Positive = 1e-6
    use_bias: bool = True
    remat: Literal["none", "full", "matmuls"] = "none"
    scan: bool = False

    def setup(self):
        embedding = functools.partial(TokenEmbedding, self.vocab_size, self.width, scale=self.scale_embeddings)
        if self.share_embeddings:
            self.embedding = embedding()
            if self.own_output:
                self.output_embedding = embedding()
        else:
            self.source_embedding, self.target_embedding, self.output_embedding = embedding(), embedding(), embedding()
        if self.output_bias:
            self.logits_bias = self.param("logits_bias", nn.initializers.zeros, (self.vocab_size,))
        if self.positions == "learned":
            self.source_positions = LearnedPositions(self.max_length, self.width)
            self.target_positions = LearnedPositions(self.max_length, self.width)
        self.input_dropout = nn.Dropout(self.dropout)
        self.encoder = self._stack(self.num_layers, cross_attention=False)
        self.decoder = self._stack(self.num_decoder_layers or self.num_layers, cross_attention=True)

    def _stack(self, num_layers: int, *, cross_attention: bool) -> TransformerStack:
        direction = "causal" if cross_attention else "bidirectional"
        layer = functools.partial(
            TransformerLayer,
            num_heads=self.num_heads,
            mlp_width=self.mlp_width,
            head_size=self.head_size,
            value_size=self.value_size,
            activation=self.activation,
            norm=self.norm,
            norm_kind=self.norm_kind,
            norm_epsilon=self.norm_epsilon,
            use_bias=self.use_bias,
            scaled=self.scale_attention,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            activation_dropout=self.activation_dropout,
            cross_attention=cross_attention,
            causal=cross_attention,
            position=self.positions if self.positions in ("rotary", "shaw") else "none",
        )
        return TransformerStack(
            layer,
            num_layers,
            remat=self.remat,
            scan=self.scan,
            final_norm=self.norm == "pre",
            relative_bias=direction if self.positions == "relative_bias" else "none",
        )

    def __call__(
        self,
        source: Int[Array, "batch source"],
        target: Int[Array, "batch target"],
        source_valid: Bool[Array, "batch source"],
        *,
        train: bool = False,
    ) -> Float32[Array, "batch target vocab"]:
        """Logits of the token that follows each token of the target (which starts with the start marker).

        Padding of the target comes last, so that the causal mask hides it.
        """
        return vocabulary_logits(*self.features(source, target, source_valid, train=train))

    def features(
        self,
        source: Int[Array, "batch source"],
        target: Int[Array, "batch target"],
        source_valid: Bool[Array, "batch source"],
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "batch target width"], Float[Array, "vocab width"]]:
        """What the logits of `__call__` are the product of: a state for each token, and the output table."""
        memory = self.encode(source, source_valid, train=train)
        return self._output(self._decode(target, memory, source_valid, train=train))

    def encode(
        self, source: Int[Array, "batch source"], source_valid: Bool[Array, "batch source"], *, train: bool = False
    ) -> Float[Array, "batch source width"]:
        """The encoder's representation of the source, which the decoder attends to."""
        table = self.embedding if self.share_embeddings else self.source_embedding
        learned = self.source_positions if self.positions == "learned" else None
        x = self._embed(table, learned, source, jnp.arange(source.shape[1]), train)
        return self.encoder(x, mask=padding_mask(source_valid), train=train)

    def decode(
        self,
        target: Int[Array, "batch target"],
        memory: Float[Array, "batch source width"] | None,
        source_valid: Bool[Array, "batch source"],
        *,
        positions: Int[Array, "... target"] | None = None,
        cache_index: int | Int[Array, ""] | None = None,
        train: bool = False,
    ) -> Float32[Array, "batch target vocab"]:
        """Logits of the next token after each token of the target.

        cache_index: where the first token of `target` stands in the collection "cache" (None without a cache). The
            memory may be None once a call with it has filled the cache.
        """
        return vocabulary_logits(
            *self._output(self._decode(target, memory, source_valid, positions, cache_index, train))
        )

    def _decode(self, target, memory, source_valid, positions=None, cache_index=None, train=False):
        if positions is None:
            positions = jnp.arange(target.shape[1]) + (0 if cache_index is None else cache_index)
        table = self.embedding if self.share_embeddings else self.target_embedding
        learned = self.target_positions if self.positions == "learned" else None
        return self.decoder(
            self._embed(table, learned, target, positions, train),
            memory,
            memory_mask=padding_mask(source_valid),
            positions=positions,
            cache_index=cache_index,
            train=train,
        )

    def _output(self, x):
        """States and the table whose product with them is the logits; a bias is the table's last column."""
        own = self.own_output or not self.share_embeddings
        table = (self.output_embedding if own else self.embedding).embedding
        if self.scale_outputs:
            x *= self.width**-0.5
        if self.output_bias:
            table = jnp.concatenate([table, self.logits_bias[:, None]], axis=1)
            x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
        return x, table

    def _embed(self, table, learned, tokens, positions, train):
        x = table(tokens)
        if self.positions in ("sinusoidal", "sinusoidal_halves"):
            table = sinusoidal(positions, self.width)
            if self.positions == "sinusoidal_halves":
                table = jnp.concatenate([table[..., 0::2], table[..., 1::2]], axis=-1)
            x += table.astype(x.dtype)
        elif learned is not None:
            x += learned(positions)
        return self.input_dropout(x, deterministic=not train)
