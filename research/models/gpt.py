"""The decoder-only language model of GPT-2 (Radford et al. 2019)."""

import functools
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from research.errors import UserError
from research.layers.embedding import TokenEmbedding, vocabulary_logits
from research.layers.feed_forward import Activation
from research.layers.masks import padding_mask, segment_mask
from research.layers.norms import NormKind
from research.layers.positions import LearnedPositions, segment_positions
from research.layers.transformer import TransformerLayer, TransformerStack
from research.ranges import Layers, Positive, Rate, Size

SIZES = {
    "gpt2": {"num_layers": 12, "width": 768, "num_heads": 12},
    "gpt2_medium": {"num_layers": 24, "width": 1024, "num_heads": 16},
    "gpt2_large": {"num_layers": 36, "width": 1280, "num_heads": 20},
    "gpt2_xl": {"num_layers": 48, "width": 1600, "num_heads": 25},
}
"""Table 2 of the paper."""


class GPT(nn.Module):
    """Pre-LN causal Transformer whose token table is its output projection too; `SIZES` has those of GPT-2.

    Llama (Touvron et al. 2023, section 2.2) is norm_kind "rms", activation "swiglu", rotary positions and no biases,
    with a projection of its own in place of the table.

    Fields:
        mlp_width: 4 · width unless given.
        head_size: of queries, keys and values; width / num_heads unless given.
        num_kv_heads: `num_heads` unless given; fewer make grouped- or multi-query attention.
        max_length: the context.
        use_bias: biases of the projections and of LayerNorm.
        norm_kind: LayerNorm, or RMSNorm, which has no bias.
        causal: whether a token sees those before it alone; otherwise it sees all, as in SigLIP's text tower (Zhai et
            al. 2023), and the model encodes texts but writes none.
    """

    vocab_size: Size
    num_layers: Layers
    width: Size
    num_heads: Size
    mlp_width: Size | None = None
    max_length: Size = 1024
    dropout: Rate = 0.0
    use_bias: bool = True
    num_kv_heads: Size | None = None
    activation: Activation = "gelu_tanh"
    positions: Literal["learned", "rotary"] = "learned"
    remat: Literal["none", "full", "matmuls"] = "none"
    scan: bool = False
    norm_kind: NormKind = "layer"
    norm_epsilon: Positive = 1e-5
    causal: bool = True
    head_size: Size | None = None

    def __call__(
        self,
        tokens: Int[Array, "batch length"],
        *,
        segments: Int[Array, "batch length"] | None = None,
        positions: Int[Array, "... length"] | None = None,
        cache_index: int | Int[Array, ""] | None = None,
        train: bool = False,
    ) -> Float32[Array, "batch length vocab"]:
        """Logits of the token that follows each token.

        segments: numbers of the texts packed into a row; each attends to itself and counts its positions from 0. For
            calls without a cache.
        cache_index: where the first token stands in the collection "cache", None without a cache.
        """
        x, table = self.features(tokens, segments=segments, positions=positions, cache_index=cache_index, train=train)
        return vocabulary_logits(x, table)

    def features(
        self,
        tokens: Int[Array, "batch length"],
        *,
        segments: Int[Array, "batch length"] | None = None,
        positions: Int[Array, "... length"] | None = None,
        cache_index: int | Int[Array, ""] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "batch length width"], Float[Array, "vocab width"]]:
        """What the logits of `__call__` are the product of: a state for each token, and the output table.

        Raises UserError for a model that is not `causal`, whose states have seen the tokens that follow.
        """
        if not self.causal:
            raise UserError("model.causal is False, so that tokens see those that follow them: set it to True")
        return self._states(tokens, segments, positions, cache_index, train=train)

    def separate_features(
        self, tokens: Int[Array, "batch length"], segments: Int[Array, "batch length"], *, train: bool = False
    ) -> tuple[Float[Array, "batch length width"], Float[Array, "vocab width"]]:
        """`features` of rows that hold several texts each, numbered by `segments`."""
        return self.features(tokens, segments=segments, train=train)

    def text_states(
        self,
        tokens: Int[Array, "batch length"],
        valid: Bool[Array, "batch length"] | None = None,
        segments: Int[Array, "batch length"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch length width"]:
        """The states of `features`. No token sees padding, and two texts are read as one."""
        mask = None if self.causal or valid is None else padding_mask(valid)  # a causal one hides what stands behind
        return self._states(tokens, None, None, None, mask=mask, train=train)[0]

    def hidden_states(
        self,
        tokens: Int[Array, "batch length"],
        *,
        segments: Int[Array, "batch length"] | None = None,
        positions: Int[Array, "... length"] | None = None,
        train: bool = False,
    ) -> Float[Array, "layers batch length width"]:
        """The states behind every layer and the final norm; the last are those of `features`."""
        return self._states(tokens, segments, positions, None, every_layer=True, train=train)[0]

    @nn.compact
    def _states(self, tokens, segments, positions, cache_index, *, mask=None, every_layer=False, train):
        length = tokens.shape[1]
        if positions is None and segments is not None:
            positions = segment_positions(segments)
        elif positions is None:
            positions = jnp.arange(length) + (0 if cache_index is None else cache_index)
        assert segments is None or cache_index is None, "segments are for calls without a cache"
        mask = mask if segments is None else segment_mask(segments, segments)

        embedding = TokenEmbedding(self.vocab_size, self.width, name="embedding")
        x = embedding(tokens)
        if self.positions == "learned":
            x += LearnedPositions(self.max_length, self.width, name="position_embedding")(positions)
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        layer = functools.partial(
            TransformerLayer,
            num_heads=self.num_heads,
            mlp_width=self.mlp_width or 4 * self.width,
            head_size=self.head_size,
            num_kv_heads=self.num_kv_heads,
            activation=self.activation,
            norm="pre",
            norm_kind=self.norm_kind,
            norm_epsilon=self.norm_epsilon,
            dropout=self.dropout,
            attention_dropout=self.dropout,
            use_bias=self.use_bias,
            causal=self.causal,
            position="rotary" if self.positions == "rotary" else "none",
            kernel_init=nn.initializers.normal(0.02),
            # Residual paths add up over 2 · num_layers sub-layers (section 2.3).
            out_init=nn.initializers.normal(0.02 * (2 * self.num_layers) ** -0.5),
        )
        stack = TransformerStack(
            layer, self.num_layers, remat=self.remat, scan=self.scan, final_norm=True, name="decoder"
        )
        x = stack(x, mask=mask, positions=positions, cache_index=cache_index, every_layer=every_layer, train=train)
        return x, embedding.embedding
