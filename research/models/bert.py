"""BERT: a bidirectional encoder of text (Devlin et al. 2019), with RoBERTa's and MiniLM's variants as fields."""

import functools
from typing import Annotated, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from research.errors import UserError
from research.layers.embedding import TokenEmbedding, float32_dot_general, vocabulary_logits
from research.layers.feed_forward import FUNCTIONS, Activation
from research.layers.masks import padding_mask
from research.layers.positions import LearnedPositions
from research.layers.transformer import TransformerLayer, TransformerStack
from research.ranges import Layers, Positive, Range, Rate, Size

SIZES = {
    "base": {"num_layers": 12, "width": 768, "num_heads": 12, "mlp_width": 3072},
    "large": {"num_layers": 24, "width": 1024, "num_heads": 16, "mlp_width": 4096},
    "minilm": {"num_layers": 6, "width": 384, "num_heads": 12, "mlp_width": 1536},
}
"""Section 3 of the paper; "minilm" is the six-layer model of Wang et al. 2020 that sentence-transformers start from."""

Pool = Literal["mean", "cls", "max"]

_INIT = nn.initializers.truncated_normal(0.02)


class BERT(nn.Module):
    """Post-LN encoder over tokens, segments and learned positions; the defaults are BERT-base without a head.

    Fields:
        head: "none" gives states; "pooler" has the projection of [CLS] too; "masked" gives the logits of masked tokens
            (section 3.1, task 1); "pretraining" has the pooler and both tasks' heads, see `pretraining`.
        head_size: of queries, keys and values; width / num_heads unless given.
        embedding_width: of the table of tokens, which a projection without a bias widens (ALBERT, Lan et al. 2020,
            section 3.1); `width`, and no projection, unless given.
        share_layers: one layer's parameters for all of them (the same section).
        max_length: rows of the table of positions.
        first_position: row of the first token; RoBERTa (Liu et al. 2019) leaves out two and has 514 of them.
        segments: how many kinds of segments (sentence A, sentence B) there are; RoBERTa has one.
        dropout, attention_dropout: rates on embeddings and sub-layers' outputs, and on the attention weights.
    """

    vocab_size: Size
    num_layers: Layers = 12
    width: Size = 768
    num_heads: Size = 12
    mlp_width: Size = 3072
    max_length: Size = 512
    first_position: Annotated[int, Range(0, 2**20)] = 0
    segments: Size = 2
    head: Literal["none", "pooler", "masked", "pretraining"] = "none"
    activation: Activation = "gelu"
    norm_epsilon: Positive = 1e-12
    dropout: Rate = 0.1
    attention_dropout: Rate = 0.1
    remat: Literal["none", "full", "matmuls"] = "none"
    scan: bool = False
    head_size: Size | None = None
    embedding_width: Size | None = None
    share_layers: bool = False

    def setup(self):
        self.embedding = TokenEmbedding(self.vocab_size, self.embedding_width or self.width)
        if self.embedding_width is not None:
            self.embedding_projection = nn.Dense(self.width, use_bias=False, kernel_init=_INIT)
        self.position_embedding = LearnedPositions(self.max_length, self.width)
        self.segment_embedding = TokenEmbedding(self.segments, self.width)
        self.embedding_norm = nn.LayerNorm(epsilon=self.norm_epsilon)
        self.embedding_dropout = nn.Dropout(self.dropout)
        layer = functools.partial(
            TransformerLayer,
            num_heads=self.num_heads,
            mlp_width=self.mlp_width,
            head_size=self.head_size,
            activation=self.activation,
            norm_epsilon=self.norm_epsilon,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            kernel_init=_INIT,
            out_init=_INIT,
        )
        options = {"remat": self.remat, "scan": self.scan, "shared": self.share_layers}
        self.encoder = TransformerStack(layer, self.num_layers, **options)
        if self.head in ("pooler", "pretraining"):
            self.pooler = nn.Dense(self.width, kernel_init=_INIT)
        if self.head in ("masked", "pretraining"):
            self.masked = MaskedHead(self.vocab_size, self.width, self.activation, self.norm_epsilon)
        if self.head == "pretraining":
            self.next_sentence = nn.Dense(2, kernel_init=_INIT, dot_general=float32_dot_general)

    def __call__(
        self,
        tokens: Int[Array, "batch length"],
        valid: Bool[Array, "batch length"] | None = None,
        segments: Int[Array, "batch length"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch length _"]:
        """Logits of the token at every place, float32, or the last layer's states where there is no such head.

        valid: which tokens are not padding (all, unless given). segments: of each token (0 unless given).
        """
        states = self.text_states(tokens, valid, segments, train=train)
        if self.is_initializing() and self.head in ("pooler", "pretraining"):
            self._second_head(states)
        return self._token_logits(states) if self.head in ("masked", "pretraining") else states

    def text_states(
        self,
        tokens: Int[Array, "batch length"],
        valid: Bool[Array, "batch length"] | None = None,
        segments: Int[Array, "batch length"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch length width"]:
        """The last layer's states. A model with one kind of segment has no use for `segments`."""
        return self._states(tokens, valid, segments, train=train)

    def hidden_states(
        self,
        tokens: Int[Array, "batch length"],
        valid: Bool[Array, "batch length"] | None = None,
        segments: Int[Array, "batch length"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "layers batch length width"]:
        """The states behind every layer, the first layer's first."""
        return self._states(tokens, valid, segments, every_layer=True, train=train)

    def pooled(
        self,
        tokens: Int[Array, "batch length"],
        valid: Bool[Array, "batch length"] | None = None,
        segments: Int[Array, "batch length"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch width"]:
        """tanh of a projection of the state of [CLS]. Raises UserError where the model has no pooler."""
        if self.head not in ("pooler", "pretraining"):
            raise UserError(f"model.head {self.head!r} has no pooler: use 'pooler' or 'pretraining'")
        return self._pool(self.text_states(tokens, valid, segments, train=train))

    def pretraining(
        self,
        tokens: Int[Array, "batch length"],
        valid: Bool[Array, "batch length"] | None = None,
        segments: Int[Array, "batch length"] | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float32[Array, "batch length vocab"], Float32[Array, "batch 2"]]:
        """Logits of the tokens, and of whether the second segment follows the first (0) or not (1) (section 3.1)."""
        if self.head != "pretraining":
            raise UserError(f"model.head {self.head!r} does not tell next sentences: use 'pretraining'")
        states = self.text_states(tokens, valid, segments, train=train)
        return self._token_logits(states), self.next_sentence(self._pool(states))

    def masked_features(
        self,
        tokens: Int[Array, "batch length"],
        valid: Bool[Array, "batch length"],
        segments: Int[Array, "batch length"],
        places: Int[Array, "batch masked"],
        *,
        train: bool = False,
    ) -> tuple[
        Float[Array, "batch masked width"],
        Float[Array, "vocab width"],
        Float[Array, "vocab"],
        Float32[Array, "batch 2"] | None,
    ]:
        """What `pretraining` gives, without computing logits where nothing is masked: the features at `places`, the
        table and the bias of the tokens' logits (`research.tasks.losses.vocabulary_loss`), and the logits of whether
        the second segment follows, None for a model that does not tell.
        """
        if self.head not in ("masked", "pretraining"):
            raise UserError(f"model.head {self.head!r} finds no masked tokens: use 'masked' or 'pretraining'")
        states = self.text_states(tokens, valid, segments, train=train)
        features = self._narrow(self.masked.features(jnp.take_along_axis(states, places[:, :, None], axis=1)))
        follows = self.next_sentence(self._pool(states)) if self.head == "pretraining" else None
        return features, self.embedding.embedding, self.masked.bias, follows

    def _states(self, tokens, valid, segments, *, every_layer=False, train):
        if tokens.shape[1] + self.first_position > self.max_length:
            room = self.max_length - self.first_position
            raise UserError(f"length {tokens.shape[1]} exceeds {room} positions: use a larger model.max_length")
        x = self.embedding(tokens)
        if self.embedding_width is not None:
            x = self.embedding_projection(x)
        x += self.position_embedding(jnp.arange(tokens.shape[1]) + self.first_position)
        none = segments is None or self.segments == 1
        x += self.segment_embedding(jnp.zeros_like(tokens) if none else segments)
        x = self.embedding_dropout(self.embedding_norm(x), deterministic=not train)
        mask = None if valid is None else padding_mask(valid)
        return self.encoder(x, mask=mask, every_layer=every_layer, train=train)

    def _token_logits(self, states):
        return (
            vocabulary_logits(self._narrow(self.masked.features(states)), self.embedding.embedding) + self.masked.bias
        )

    def _narrow(self, features):
        """What the logits are the product of, with the table of `embedding_width`: with the projected table they would
        be the same."""
        if self.embedding_width is None:
            return features
        return features @ self.embedding_projection.variables["params"]["kernel"].T.astype(features.dtype)

    def _pool(self, states):
        return nn.tanh(self.pooler(states[:, 0]))

    def _second_head(self, states):
        pooled = self._pool(states)
        if self.head == "pretraining":
            self.next_sentence(pooled)


class MaskedHead(nn.Module):
    """What comes before the logits of masked tokens, the product with the token table: a projection, the activation and
    a norm; and the bias of these logits."""

    vocab_size: int
    width: int
    activation: Activation
    norm_epsilon: float

    def setup(self):
        self.transform = nn.Dense(self.width, kernel_init=_INIT)
        self.norm = nn.LayerNorm(epsilon=self.norm_epsilon)
        self.bias = self.param("bias", nn.initializers.zeros, (self.vocab_size,))

    def features(self, states: Float[Array, "batch length width"]) -> Float[Array, "batch length width"]:
        """What the logits are the product of, with the table, before the bias."""
        return self.norm(FUNCTIONS[self.activation](self.transform(states)))


def sentence_vectors(
    states: Float[Array, "batch length width"],
    valid: Bool[Array, "batch length"],
    pool: Pool = "mean",
    *,
    normalise: bool = True,
) -> Float32[Array, "batch width"]:
    """One vector for each text (Reimers & Gurevych 2019, section 3): the mean or the maximum over all tokens that are
    not padding, [CLS] and [SEP] included, or the state of [CLS]; of length 1 with `normalise`.
    """
    states, valid = states.astype(jnp.float32), valid[:, :, None]
    if pool == "mean":
        vectors = jnp.where(valid, states, 0).sum(axis=1) / jnp.maximum(valid.sum(axis=1), 1)
    else:
        vectors = states[:, 0] if pool == "cls" else jnp.where(valid, states, -jnp.inf).max(axis=1)
    if not normalise:
        return vectors
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
