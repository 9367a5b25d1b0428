"""The recurrent baseline: LSTM encoder and decoder with the attention of Luong, Pham & Manning (2015).

Bidirectional encoder, attention by the "general" score (section 3.1, equation 8; scaled by 1/sqrt(width), as our
Transformers' is) over the whole source, input feeding (section 3.3). The decoder starts from the backward encoder's
state at the first token (Bahdanau et al. 2015, section A.2.2).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from research.errors import UserError
from research.layers.dot_product import attention_weights, weighted_values
from research.layers.embedding import TokenEmbedding, vocabulary_logits
from research.layers.masks import padding_mask
from research.ranges import Layers, Rate, Size

State = dict[str, Array]
"""`hidden` and `cell` [batch, layers, width], and `attended` [batch, width], the last attentional vector."""


class RNNSeq2Seq(nn.Module):
    """Source text to target text, called as the Transformer `Seq2Seq` is.

    Fields:
        num_layers: of the encoder and of the decoder.
        width: of the embeddings and of the states; an encoder layer has half of it in each direction.
        dropout: rate on the embeddings, between layers and on what makes the logits, never on the recurrent state
            (Zaremba et al. 2014, section 3.2).
        share_embeddings: one table for source, target and output, otherwise three.
    """

    vocab_size: Size
    num_layers: Layers = 2
    width: Size = 512
    dropout: Rate = 0.2
    share_embeddings: bool = True

    def setup(self):
        if self.width % 2:
            raise UserError(f"width {self.width} is odd: use an even one, as each direction of the encoder has half")
        embedding = functools.partial(TokenEmbedding, self.vocab_size, self.width, scale=True)
        if self.share_embeddings:
            self.embedding = embedding()
        else:
            self.source_embedding, self.target_embedding, self.output_embedding = embedding(), embedding(), embedding()
        self.embedding_dropout, self.output_dropout = nn.Dropout(self.dropout), nn.Dropout(self.dropout)
        self.encoder = LSTMEncoder(self.num_layers, self.dropout)
        self.decoder = LSTMDecoder(self.num_layers, self.dropout)

    def __call__(
        self,
        source: Int[Array, "batch source"],
        target: Int[Array, "batch target"],
        source_valid: Bool[Array, "batch source"],
        *,
        train: bool = False,
    ) -> Float32[Array, "batch target vocab"]:
        """Logits of the token that follows each token of the target (which starts with the start marker)."""
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
        return self._decode(target, memory, source_valid, train=train), self._output_table()

    def encode(
        self, source: Int[Array, "batch source"], source_valid: Bool[Array, "batch source"], *, train: bool = False
    ) -> Float[Array, "batch source width"]:
        """The states of the last layer, forward and backward; padding comes last and changes nothing."""
        x = (self.embedding if self.share_embeddings else self.source_embedding)(source)
        return self.encoder(self.embedding_dropout(x, deterministic=not train), source_valid, train=train)

    def decode(
        self,
        target: Int[Array, "batch target"],
        memory: Float[Array, "memory_batch source width"] | None,
        source_valid: Bool[Array, "memory_batch source"],
        *,
        positions: Int[Array, "... target"] | None = None,
        cache_index: int | Int[Array, ""] | None = None,
        train: bool = False,
    ) -> Float32[Array, "batch target vocab"]:
        """Logits of the next token after each token of the target.

        memory: row i serves `batch / memory_batch` consecutive rows of the target. It may be None once a call with it
            has filled the collection "cache".
        positions: not used, since the recurrence itself counts.
        cache_index: where the first token of `target` stands; None without a cache. 0 starts anew, any other
            continues from where the last call ended.
        """
        x = self._decode(target, memory, source_valid, cache_index, train)
        return vocabulary_logits(x, self._output_table())

    def _decode(self, target, memory, source_valid, cache_index=None, train=False):
        x = (self.embedding if self.share_embeddings else self.target_embedding)(target)
        x = self.embedding_dropout(x, deterministic=not train)
        x = self.decoder(x, memory, source_valid, cache_index=cache_index, train=train)
        return self.output_dropout(x, deterministic=not train)

    def _output_table(self):
        return (self.embedding if self.share_embeddings else self.output_embedding).embedding


class LSTMEncoder(nn.Module):
    """Layers of one LSTM in each direction."""

    num_layers: int
    dropout: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch length width"], valid: Bool[Array, "batch length"], *, train: bool
    ) -> Float[Array, "batch length width"]:
        """The states [forward, backward] of the last layer."""
        width = x.shape[-1] // 2
        for layer in range(self.num_layers):
            if layer:
                x = nn.Dropout(self.dropout)(x, deterministic=not train)
            forward = LSTM(width, name=f"layer_{layer}_forward")(x, valid)
            backward = LSTM(width, reverse=True, name=f"layer_{layer}_backward")(x, valid)
            x = jnp.concatenate([forward, backward], axis=-1)
        return x


class LSTM(nn.Module):
    """A long short-term memory that reads from the first token to the last or, with `reverse`, the other way."""

    width: int
    reverse: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch length features"], valid: Bool[Array, "batch length"]
    ) -> Float[Array, "batch length {self.width}"]:
        """The state at each token. Invalid tokens leave it as it is, so that `reverse` starts at the last valid one."""
        inputs = nn.Dense(4 * self.width, name="input")(x)  # of all tokens at once
        recurrent = self.param("recurrent", nn.initializers.orthogonal(), (self.width, 4 * self.width))

        def step(state, token):
            gates, valid = token
            new = lstm_cell(gates + state[0] @ recurrent, state[1])
            state = tuple(jnp.where(valid[:, None], after, before) for after, before in zip(new, state, strict=True))
            return state, state[0]

        zeros = jnp.zeros((x.shape[0], self.width), inputs.dtype)
        tokens = inputs.swapaxes(0, 1), valid.T
        _, states = jax.lax.scan(step, (zeros, zeros), tokens, reverse=self.reverse)
        return states.swapaxes(0, 1)


class LSTMDecoder(nn.Module):
    """Layers of LSTMs that attend to the source at every token.

    The collection "cache" holds the State and, in `cross_attention`, the memory. The collection "attention", when it is
    mutable, receives the `weights` of `cross_attention`: float32 [batch, 1, queries, keys].
    """

    num_layers: int
    dropout: float

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length width"],
        memory: Float[Array, "memory_batch source width"] | None,
        source_valid: Bool[Array, "memory_batch source"],
        *,
        cache_index: int | Int[Array, ""] | None,
        train: bool,
    ) -> Float[Array, "batch length width"]:
        """The attentional vectors (equation 5)."""
        attention = AttentionMemory(name="cross_attention")
        key, value = attention(memory, cached=cache_index is not None, dtype=x.dtype)
        state = self._initial_state(value, x.shape[0])
        cached = {}
        if cache_index is not None:
            cached = {name: self.variable("cache", name, jnp.zeros_like, start) for name, start in state.items()}
            state = {
                name: jnp.where(cache_index == 0, start, cached[name].value.astype(x.dtype))
                for name, start in state.items()
            }
        steps = nn.scan(
            DecoderStep,
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": True},
            in_axes=(1, nn.broadcast, nn.broadcast, nn.broadcast),
            out_axes=(1, 2),
        )(self.num_layers, self.dropout, train, name="step")
        state, (x, weights) = steps(state, x, key, value, source_valid)
        for name, variable in cached.items():
            variable.value = state[name].astype(variable.value.dtype)
        if self.is_mutable_collection("attention") and not self.is_initializing():
            attention.sow("attention", "weights", weights)
        return x

    def _initial_state(self, memory: Float[Array, "memory_batch source width"], batch: int) -> State:
        width = memory.shape[-1]
        backward = memory[:, 0, width // 2 :]
        hidden = jnp.tanh(nn.Dense(self.num_layers * width, name="start")(backward))
        hidden = jnp.repeat(hidden.reshape(-1, self.num_layers, width), batch // memory.shape[0], axis=0)
        return {"hidden": hidden, "cell": jnp.zeros_like(hidden), "attended": jnp.zeros_like(hidden[:, 0])}


class AttentionMemory(nn.Module):
    """What the decoder attends to: the memory, and the keys W_a · memory of the general score (equation 8)."""

    @nn.compact
    def __call__(
        self, memory: Float[Array, "batch source width"] | None, *, cached: bool, dtype: jnp.dtype
    ) -> tuple[Float[Array, "batch source width"], Float[Array, "batch source width"]]:
        """Keys and values, of the memory or, without one, those that the collection "cache" holds."""
        if memory is None:
            if not (cached and self.has_variable("cache", "cached_key")):
                raise ValueError("the decoder needs `memory`, or a cache that a call with `memory` has filled")
            key, value = (self.get_variable("cache", name) for name in ("cached_key", "cached_value"))
            return key.astype(dtype), value.astype(dtype)
        key = nn.Dense(memory.shape[-1], use_bias=False, name="key")(memory)
        if cached:
            for name, new in (("cached_key", key), ("cached_value", memory)):
                variable = self.variable("cache", name, jnp.zeros_like, new)
                variable.value = new.astype(variable.value.dtype)
        return key, memory


class DecoderStep(nn.Module):
    """One token: the LSTMs, then attention from the top one (sections 3.1 and 3.3)."""

    num_layers: int
    dropout: float
    train: bool

    @nn.compact
    def __call__(
        self,
        state: State,
        x: Float[Array, "batch width"],
        key: Float[Array, "memory_batch source width"],
        value: Float[Array, "memory_batch source width"],
        source_valid: Bool[Array, "memory_batch source"],
    ) -> tuple[State, tuple[Float[Array, "batch width"], Float32[Array, "batch 1 source"]]]:
        """The next state, the attentional vector and the attention weights."""
        batch, width = x.shape
        x = jnp.concatenate([x, state["attended"]], axis=-1)
        hiddens, cells = [], []
        for layer in range(self.num_layers):
            if layer:
                x = nn.Dropout(self.dropout)(x, deterministic=not self.train)
            gates = nn.Dense(4 * width, name=f"layer_{layer}")(jnp.concatenate([x, state["hidden"][:, layer]], axis=-1))
            x, cell = lstm_cell(gates, state["cell"][:, layer])
            hiddens.append(x)
            cells.append(cell)
        # Rows that share a memory are its queries.
        query = x.reshape(key.shape[0], -1, 1, width)
        weights = attention_weights(query, key[:, :, None], mask=padding_mask(source_valid))
        context = weighted_values(weights, value[:, :, None]).reshape(batch, width)
        attended = jnp.tanh(nn.Dense(width, use_bias=False, name="combine")(jnp.concatenate([context, x], axis=-1)))
        state = {"hidden": jnp.stack(hiddens, axis=1), "cell": jnp.stack(cells, axis=1), "attended": attended}
        return state, (attended, weights.reshape(batch, 1, -1))


def lstm_cell(
    gates: Float[Array, "batch gates"], cell: Float[Array, "batch width"]
) -> tuple[Float[Array, "batch width"], Float[Array, "batch width"]]:
    """The next hidden state and cell from the sums that enter the input, forget and output gates and the candidate.

    Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000, which a bias of 1 holds open at first
    (Jozefowicz et al. 2015, section 5).
    """
    enter, forget, output, candidate = jnp.split(gates, 4, axis=-1)
    cell = nn.sigmoid(forget + 1) * cell + nn.sigmoid(enter) * jnp.tanh(candidate)
    return nn.sigmoid(output) * jnp.tanh(cell), cell
