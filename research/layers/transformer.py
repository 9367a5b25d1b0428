"""Encoder and decoder layers and stacks (Vaswani et al. 2017, section 3.1)."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.errors import UserError
from research.layers.attention import MultiHeadAttention
from research.layers.feed_forward import Activation, FeedForward
from research.layers.norms import NormKind, make_norm
from research.layers.positions import RelativeBias
from research.parallel.mesh import shard_activations
from research.parallel.sharding import SCANNED

REMAT = {"none": None, "full": None, "matmuls": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}
"""What of a layer's activations is kept for the backward pass: all; its input alone; what its weights were applied to
as well, so that only attention and element-wise functions are computed again."""


class TransformerLayer(nn.Module):
    """Self-attention, optional cross-attention and feed-forward, each with a residual connection and a norm.

    Fields:
        norm: "post", norm(x + f(x)), as in the paper, or "pre", x + f(norm(x)) (Xiong et al. 2020).
        dropout, attention_dropout, activation_dropout: rates on the output of every sub-layer (section 5.4), on the
            attention weights and on the hidden layer of the feed-forward network.
        norm_kind: LayerNorm, or RMSNorm, which has no bias.
        use_bias, norm_bias: biases of the projections and of the norms; `norm_bias` follows `use_bias` unless given.
        causal: self-attention looks at nothing that stands behind a token.
        layer_scale: initial value of a learned factor for each channel of a sub-layer (Touvron et al. 2021b, "Going
            deeper with image transformers").
        The others: see MultiHeadAttention and FeedForward.
    """

    num_heads: int
    mlp_width: int
    head_size: int | None = None
    value_size: int | None = None
    num_kv_heads: int | None = None
    activation: Activation = "relu"
    norm: Literal["post", "pre"] = "post"
    norm_kind: NormKind = "layer"
    norm_epsilon: float = 1e-6
    norm_bias: bool | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    use_bias: bool = True
    cross_attention: bool = False
    causal: bool = False
    position: Literal["none", "rotary", "shaw"] = "none"
    max_distance: int = 16
    qk_norm: bool = False
    scaled: bool = True
    layer_scale: float | None = None
    kernel_init: Callable = nn.initializers.xavier_uniform()
    out_init: Callable = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length width"],
        memory: Float[Array, "batch keys memory_width"] | None = None,
        *,
        mask: Bool[Array, "..."] | None = None,
        memory_mask: Bool[Array, "..."] | None = None,
        bias: Float[Array, "..."] | None = None,
        positions: Int[Array, "... length"] | None = None,
        embedding: Float[Array, "#batch length width"] | None = None,
        memory_embedding: Float[Array, "#batch keys memory_width"] | None = None,
        cache_index: int | Int[Array, ""] | None = None,
        drop_rate: Float[Array, ""] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch length width"]:
        """mask, bias, positions and cache_index go to self-attention, memory_mask to cross-attention.

        embedding, memory_embedding: vectors for the positions of x and of the memory, which every attention adds to its
            queries and keys but not to its values (Carion et al. 2020, appendix A.4).
        drop_rate: probability of leaving out a sub-layer, drawn for each example (stochastic depth).
        """
        add = functools.partial(self._add, drop_rate=drop_rate, train=train)
        settings = {"causal": self.causal, "position": self.position, "max_distance": self.max_distance}
        self_attention = self._attention(**settings, name="self_attention")
        options = {"mask": mask, "bias": bias, "positions": positions, "cache_index": cache_index, "train": train}
        embeddings = {"query_embedding": embedding, "key_embedding": embedding}
        x = add(x, "self_attention", functools.partial(self_attention, **options, **embeddings))
        if self.cross_attention:
            cross_attention = self._attention(cross=True, name="cross_attention")
            options = {"mask": memory_mask, "cache_index": cache_index, "train": train}
            embeddings = {"query_embedding": embedding, "key_embedding": memory_embedding}
            x = add(x, "cross_attention", functools.partial(cross_attention, memory=memory, **options, **embeddings))
        feed_forward = FeedForward(
            self.mlp_width,
            self.activation,
            self.activation_dropout,
            self.use_bias,
            kernel_init=self.kernel_init,
            out_init=self.out_init,
            name="feed_forward",
        )
        return add(x, "feed_forward", functools.partial(feed_forward, train=train))

    def _attention(self, **options: Any) -> MultiHeadAttention:
        return MultiHeadAttention(
            num_heads=self.num_heads,
            head_size=self.head_size,
            value_size=self.value_size,
            num_kv_heads=self.num_kv_heads,
            use_bias=self.use_bias,
            dropout=self.attention_dropout,
            qk_norm=self.qk_norm,
            scaled=self.scaled,
            kernel_init=self.kernel_init,
            out_init=self.out_init,
            **options,
        )

    def _add(
        self, x: Array, name: str, sub_layer: Callable[[Array], Array], *, drop_rate: Array | None, train: bool
    ) -> Array:
        """x and the sub-layer's output, with the norm before or behind."""
        norm = _norm(self, f"{name}_norm")
        branch = sub_layer(norm(x) if self.norm == "pre" else x)
        if self.layer_scale is not None:
            factor = nn.initializers.constant(self.layer_scale)
            branch *= self.param(f"{name}_scale", factor, branch.shape[-1:])
        branch = nn.Dropout(self.dropout)(branch, deterministic=not train)
        if drop_rate is not None:
            branch = drop_branch(branch, drop_rate, self.make_rng("dropout"))
        return x + branch if self.norm == "pre" else norm(x + branch)


class TransformerStack(nn.Module):
    """`num_layers` layers, `layer_0` ... or, scanned, `layers` with a leading layer axis on all their variables.

    Fields:
        layer: makes one layer: a functools.partial of TransformerLayer.
        stochastic_depth: probability of leaving out a sub-layer of the last layer, growing linearly from 0 in the
            first (Huang et al. 2016).
        remat: which activations the backward pass computes again instead of keeping them, a name in `REMAT`.
        scan: one compiled layer for all: compile time no longer grows with depth.
        final_norm: a norm of the layers' kind after the last one, which pre-LN needs.
        shared: one layer, `layer_0`, is applied num_layers times (Lan et al. 2020, section 3.1); not with `scan`.
        relative_bias: T5's relative bias on self-attention, one table for all layers; "causal" has buckets for the
            past only.

    The collection "hidden_states", when it is mutable, receives `states`, what `every_layer` gives, and the `mask`.
    """

    layer: Callable[..., TransformerLayer]
    num_layers: int
    stochastic_depth: float = 0.0
    remat: Literal["none", "full", "matmuls"] = "none"
    scan: bool = False
    final_norm: bool = False
    shared: bool = False
    relative_bias: Literal["none", "bidirectional", "causal"] = "none"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length width"],
        memory: Float[Array, "batch keys memory_width"] | None = None,
        *,
        mask: Bool[Array, "..."] | None = None,
        memory_mask: Bool[Array, "..."] | None = None,
        positions: Int[Array, "... length"] | None = None,
        embedding: Float[Array, "#batch length width"] | None = None,
        memory_embedding: Float[Array, "#batch keys memory_width"] | None = None,
        cache_index: int | Int[Array, ""] | None = None,
        every_layer: bool = False,
        train: bool = False,
    ) -> Float[Array, "*layers batch length width"]:
        """Applies the layers; see MultiHeadAttention for masks, positions, cache, TransformerLayer for embeddings.

        every_layer: the outputs of all layers, the first layer's first, along a leading axis. The final norm, where
            there is one, is applied to each (as Carion et al. 2020, section 3.2, for losses on every decoder layer), so
            that the last is what comes out without `every_layer`.
        """
        settings = self.layer(parent=None)
        watched = self.is_mutable_collection("hidden_states") and not self.is_initializing()
        all_outputs = every_layer or watched
        bias = None
        if self.relative_bias != "none":
            bias = self._relative_bias(settings.num_heads, x.shape[1], cache_index)

        def run(layer, x, drop_rate):
            x = layer(
                x,
                memory,
                mask=mask,
                memory_mask=memory_mask,
                bias=bias,
                positions=positions,
                embedding=embedding,
                memory_embedding=memory_embedding,
                cache_index=cache_index,
                drop_rate=drop_rate,
                train=train,
            )
            x = shard_activations(x)
            return x, x if all_outputs else None

        x = shard_activations(x)
        if self.remat != "none":
            # Inside a scan the compiler cannot merge the second computation with the first anyway.
            run = nn.remat(run, prevent_cse=not self.scan, policy=REMAT[self.remat])
        drop = train and self.stochastic_depth > 0
        drop_rates = jnp.linspace(0.0, self.stochastic_depth, self.num_layers) if drop else None
        x, outputs = self._run_all(run, x, drop_rates)
        if all_outputs:
            x = outputs if self.scan else jnp.stack(outputs)
        if self.final_norm:
            x = _norm(settings, "norm")(x)
        if watched:
            self.sow("hidden_states", "states", {"states": x} | ({} if mask is None else {"mask": mask}))
        return x[-1] if all_outputs and not every_layer else x

    def _run_all(self, run: Callable, x: Array, drop_rates: Array | None) -> tuple[Array, Any]:
        """What the last layer gives, and the second result of `run` for each, stacked where layers are scanned."""
        if self.scan and self.shared:
            raise UserError(
                "model.share_layers has one layer's parameters, and model.scan one for each: use one of them"
            )
        if self.scan:
            scanned = nn.scan(
                run,
                variable_axes={"params": 0, "cache": 0, "attention": 0},
                split_rngs={"params": True, "dropout": True},
                length=self.num_layers,
            )
            return scanned(self.layer(name=SCANNED), x, drop_rates)
        outputs = []
        layers = [self.layer(name=f"layer_{index}") for index in range(1 if self.shared else self.num_layers)]
        for index in range(self.num_layers):
            x, output = run(layers[0 if self.shared else index], x, None if drop_rates is None else drop_rates[index])
            outputs.append(output)
        return x, outputs

    def _relative_bias(
        self, num_heads: int, length: int, cache_index: int | Array | None
    ) -> Float[Array, "1 heads queries keys"]:
        layer = self.variables.get("cache", {}).get(SCANNED if self.scan else "layer_0")
        keys = layer["self_attention"]["cached_key"].shape[-3] if layer else length
        queries = jnp.arange(length) + (0 if cache_index is None else cache_index)
        table = RelativeBias(num_heads, bidirectional=self.relative_bias == "bidirectional", name="relative_bias")
        return table(queries, jnp.arange(keys))


def _norm(layer: TransformerLayer, name: str) -> nn.Module:
    """A norm as the layer's fields have it, in the module whose method calls."""
    bias = layer.use_bias and layer.norm_kind == "layer" if layer.norm_bias is None else layer.norm_bias
    return make_norm(layer.norm_kind, epsilon=layer.norm_epsilon, use_bias=bias, name=name)


def drop_branch(branch: Float[Array, "batch ..."], rate: Float[Array, ""], rng: jax.Array) -> Float[Array, "batch ..."]:
    """Stochastic depth: an example's branch becomes 0 with probability `rate`, the others grow by 1 / (1 - rate)."""
    keep = jax.random.bernoulli(rng, 1 - rate, (len(branch),) + (1,) * (branch.ndim - 1))
    return jnp.where(keep, branch / (1 - rate), 0).astype(branch.dtype)
