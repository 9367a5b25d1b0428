"""Multi-head attention (Vaswani et al. 2017, section 3.2.2), with a cache for decoding."""

import functools
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from research.errors import UserError
from research.layers.dot_product import attention_weights, both, dot_product_attention, dropped, weighted_values
from research.layers.masks import causal_mask
from research.layers.positions import rotary


class MultiHeadAttention(nn.Module):
    """Attention with `num_heads` heads, each in its own learned projection (section 3.2.2).

    Fields:
        head_size: size of queries and keys, d_k in the paper; width / num_heads unless given.
        value_size: size of values, d_v in the paper; `head_size` unless given.
        num_kv_heads: heads of keys and values, `num_heads` unless given: 1 is multi-query (Shazeer 2019), between
            the two grouped-query attention (Ainslie et al. 2023).
        dropout: rate on the attention weights.
        position: "rotary" (Su et al. 2021) or "shaw", relations clipped at `max_distance` (Shaw et al. 2018).
        cross: attend to `memory` instead of to the input itself.
        causal: no token attends to what stands behind it, as with a cache.
        qk_norm: LayerNorm of each head's queries and keys, for stability at scale (Dehghani et al. 2023, section 2).
        scaled: divides query · key by sqrt(head_size); T5 does not (Raffel et al. 2020).

    The collection "attention", when it is mutable, receives what the weights before dropout are made of: the arguments
    of `dot_product.attention_weights`, and `causal`. Their size grows with the length, that of weights with its square.
    The collection "cache" holds `cached_key` and `cached_value`, [batch, cache_length, num_kv_heads, size].
    """

    num_heads: int
    head_size: int | None = None
    value_size: int | None = None
    num_kv_heads: int | None = None
    use_bias: bool = True
    dropout: float = 0.0
    position: Literal["none", "rotary", "shaw"] = "none"
    max_distance: int = 16
    cross: bool = False
    causal: bool = False
    qk_norm: bool = False
    scaled: bool = True
    kernel_init: Callable = nn.initializers.xavier_uniform()
    out_init: Callable = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch queries width"],
        memory: Float[Array, "batch keys memory_width"] | None = None,
        *,
        mask: Bool[Array, "#batch #heads #queries _"] | None = None,
        bias: Float[Array, "#batch #heads #queries _"] | None = None,
        positions: Int[Array, "... queries"] | None = None,
        query_embedding: Float[Array, "#batch queries width"] | None = None,
        key_embedding: Float[Array, "#batch _ _"] | None = None,
        cache_index: int | Int[Array, ""] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch queries width"]:
        """Self-attention over x, or cross-attention from x to the memory when `cross`.

        positions: of the tokens of x, for rotary; their index by default.
        query_embedding, key_embedding: vectors for the positions of x and of what is attended to (x itself, or the
            memory): what queries and keys are projected from is the sum, while values have no position (Carion et al.
            2020, appendix A.4).
        cache_index: where the first token of x stands, None without a cache. Self-attention stores its keys and values
            from there on and attends to all positions up to each token's own (`mask` then spans the cache);
            cross-attention stores those of the memory, or reads the stored ones when there is no memory. A cache that
            does not exist is created with the length of x (or of the memory).
        """
        if self.cross and self.position != "none":
            raise ValueError(f"position {self.position!r} relates tokens of one sequence: cross-attention takes none")
        width = x.shape[-1]
        num_kv_heads, head_size, value_size = self._sizes(width)
        project = functools.partial(nn.DenseGeneral, use_bias=self.use_bias, kernel_init=self.kernel_init)
        query = project((self.num_heads, head_size), name="query")(_plus(x, query_embedding))
        query_positions = jnp.arange(x.shape[1]) + (0 if cache_index is None else cache_index)

        source = memory if self.cross else x
        key = value = None
        if source is not None:
            key = project((num_kv_heads, head_size), name="key")(_plus(source, key_embedding))
            value = project((num_kv_heads, value_size), name="value")(source)
        if self.qk_norm:
            query = nn.LayerNorm(use_bias=False, name="query_norm")(query)
            key = key if key is None else nn.LayerNorm(use_bias=False, name="key_norm")(key)
        if not self.scaled:
            query *= head_size**0.5
        if self.position == "rotary":
            assert key is not None  # cross-attention, which may have none, takes no positions
            positions = query_positions if positions is None else positions
            query, key = rotary(query, positions), rotary(key, positions)
        if cache_index is not None:
            start = 0 if self.cross else cache_index
            key, value = (
                self._cached(name, new, start, x.dtype) for name, new in (("cached_key", key), ("cached_value", value))
            )
            if not self.cross:
                mask = both((jnp.arange(key.shape[1]) <= query_positions[:, None])[None, None], mask)

        causal = self.causal and cache_index is None
        attended = self._attend(query, key, value, query_positions, mask, bias, causal, train)
        return nn.DenseGeneral(width, axis=(-2, -1), use_bias=self.use_bias, kernel_init=self.out_init, name="out")(
            attended
        )

    def _sizes(self, width: int) -> tuple[int, int, int]:
        num_kv_heads = self.num_kv_heads or self.num_heads
        if self.num_heads % num_kv_heads:
            raise UserError(
                f"num_heads {self.num_heads} is not divisible by num_kv_heads {num_kv_heads}: "
                f"use {_divisors(self.num_heads)}"
            )
        if self.head_size is None and width % self.num_heads:
            raise UserError(
                f"width {width} is not divisible by num_heads {self.num_heads}: "
                f"use {_divisors(width)} heads, or set head_size"
            )
        head_size = self.head_size or width // self.num_heads
        return num_kv_heads, head_size, self.value_size or head_size

    def _cached(self, name: str, new: Array | None, start: int | Array, dtype: jnp.dtype) -> Array:
        if new is None and not self.has_variable("cache", name):
            raise ValueError("cross-attention needs `memory`, or a cache that a call with `memory` has filled")
        cached = self.variable("cache", name, jnp.zeros_like, new)
        if new is not None:
            cached.value = jax.lax.dynamic_update_slice_in_dim(
                cached.value, new.astype(cached.value.dtype), start, axis=1
            )
        return cached.value.astype(dtype)

    def _attend(self, query, key, value, query_positions, mask, bias, causal, train):
        dropout = self.dropout if train else 0.0
        dropout_rng = self.make_rng("dropout") if dropout else None
        relation = self._relations(query_positions, key.shape[1]) if self.position == "shaw" else None
        if relation is not None:
            relative = self._shaw_logits(query, relation)
            bias = relative if bias is None else relative + bias
        if self.is_mutable_collection("attention") and not self.is_initializing():
            given = {"query": query, "key": key, "mask": mask, "bias": bias, "causal": jnp.array(causal)}
            self.sow("attention", "inputs", {name: array for name, array in given.items() if array is not None})
        if relation is None:
            options = {"mask": mask, "bias": bias, "dropout": dropout, "dropout_rng": dropout_rng}
            return dot_product_attention(query, key, value, causal=causal, **options)
        mask = both(causal_mask(query.shape[1]), mask) if causal else mask
        weights = dropped(attention_weights(query, key, mask=mask, bias=bias), dropout, dropout_rng)
        return weighted_values(weights, value) + self._shaw_values(weights, relation, value)

    def _relations(self, query_positions: Array, keys: int) -> Int[Array, "queries keys"]:
        distance = jnp.arange(keys)[None, :] - query_positions[:, None]
        return jnp.clip(distance, -self.max_distance, self.max_distance) + self.max_distance

    def _relation_table(self, name: str, size: int) -> Float[Array, "relations size"]:
        return self.param(name, nn.initializers.xavier_uniform(), (2 * self.max_distance + 1, size))

    def _shaw_logits(self, query: Array, relation: Array) -> Float32[Array, "batch heads queries keys"]:
        """The second term of Shaw et al. 2018, equation 5: one product per relation, then picked per key."""
        table = self._relation_table("relative_key", query.shape[-1])
        logits = jnp.einsum("bqhd,rd->bhqr", query, table, preferred_element_type=jnp.float32)
        return jnp.take_along_axis(logits, relation[None, None], axis=-1) * query.shape[-1] ** -0.5

    def _shaw_values(self, weights: Array, relation: Array, value: Array) -> Array:
        """The second term of equation 3: weights summed per relation, then one product per relation."""
        table = self._relation_table("relative_value", value.shape[-1])
        chosen = jax.nn.one_hot(relation, len(table), dtype=weights.dtype)
        summed = jnp.einsum("bhqk,qkr->bqhr", weights, chosen)
        return jnp.einsum("bqhr,rd->bqhd", summed.astype(value.dtype), table)


def _plus(x: Array, embedding: Array | None) -> Array:
    return x if embedding is None else x + embedding.astype(x.dtype)


def _divisors(number: int) -> str:
    divisors = [str(divisor) for divisor in range(1, number + 1) if number % divisor == 0][:12]
    return " or ".join([", ".join(divisors[:-1]), divisors[-1]] if divisors[1:] else divisors)
