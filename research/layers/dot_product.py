"""Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1), by the formula or the fused kernel of a device."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from research.layers.masks import causal_mask
from research.layers.ring import ring_attention
from research.parallel.mesh import ways

Mask = Bool[Array, "#batch #heads #queries #keys"]
Bias = Float[Array, "#batch #heads #queries #keys"]

LONG, BLOCK = 2048, 1024
"""Queries above which not all attention weights exist at a time, and of how many they do."""


def attention_weights(
    query: Float[Array, "batch queries heads head_size"],
    key: Float[Array, "batch keys kv_heads head_size"],
    *,
    mask: Mask | None = None,
    bias: Bias | None = None,
) -> Float32[Array, "batch heads queries keys"]:
    """softmax(query · key / sqrt(head_size) + bias) over the keys that the mask allows (equation 1).

    A row whose keys are all masked is uniform, with finite gradients.
    """
    logits = attention_logits(query, key, bias=bias)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    return jax.nn.softmax(logits)


def attention_logits(
    query: Float[Array, "batch queries heads head_size"],
    key: Float[Array, "batch keys kv_heads head_size"],
    *,
    bias: Bias | None = None,
) -> Float32[Array, "batch heads queries keys"]:
    """query · key / sqrt(head_size) + bias, of all keys.

    Query head i uses key head i // (heads / kv_heads) (Ainslie et al. 2023).
    """
    batch, queries, heads, head_size = query.shape
    keys, kv_heads = key.shape[1:3]
    grouped = query.reshape(batch, queries, kv_heads, heads // kv_heads, head_size)
    if queries == 1:
        # A product of matrices would copy all keys into another order first; this reads them as they lie. Scaling the
        # sums instead would keep the CPU's compiler from its fast sum.
        scaled = grouped.astype(jnp.float32) * head_size**-0.5
        logits = (scaled * key[:, :, :, None]).sum(axis=-1).transpose(0, 2, 3, 1)
    else:
        logits = jnp.einsum("bqhgd,bkhd->bhgqk", grouped, key, preferred_element_type=jnp.float32) * head_size**-0.5
    logits = logits.reshape(batch, heads, queries, keys)
    return logits if bias is None else logits + bias


def weighted_values(
    weights: Float32[Array, "batch heads queries keys"], value: Float[Array, "batch keys kv_heads value_size"]
) -> Float[Array, "batch queries heads value_size"]:
    """Sums of the values under the attention weights, in the values' dtype."""
    batch, heads, queries, keys = weights.shape
    kv_heads = value.shape[2]
    grouped = weights.astype(value.dtype).reshape(batch, kv_heads, heads // kv_heads, queries, keys)
    if queries == 1:
        return (grouped.transpose(0, 4, 1, 2, 3) * value[:, :, :, None]).sum(axis=1).reshape(batch, queries, heads, -1)
    return jnp.einsum("bhgqk,bkhd->bqhgd", grouped, value).reshape(batch, queries, heads, -1)


def dot_product_attention(
    query: Float[Array, "batch queries heads head_size"],
    key: Float[Array, "batch keys kv_heads head_size"],
    value: Float[Array, "batch keys kv_heads value_size"],
    *,
    mask: Mask | None = None,
    bias: Bias | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    dropout_rng: Array | None = None,
) -> Float[Array, "batch queries heads value_size"]:
    """softmax(query · key / sqrt(head_size) + bias) · value (equation 1), softmax in float32.

    causal: no query attends to keys behind its own position. Accelerators use `jax.nn.dot_product_attention` (cuDNN's
    flash attention where it applies, which makes no array of a causal mask); the CPU, dropout on the weights and values
    of another size than the keys use the formula as it stands, on long sequences for some queries at a time. Under a
    mesh that splits sequences it is ring attention.
    """
    split = ways("sequence") > 1
    formula = jax.default_backend() == "cpu" or dropout or value.shape[-1] != key.shape[-1]
    if formula and not split and query.shape[1] > LONG:
        return _in_blocks(query, key, value, mask, bias, causal, dropout, dropout_rng)
    if causal and (split or formula):
        mask = both(causal_mask(query.shape[1]), mask)
    if split:
        shape = (query.shape[0], query.shape[2], query.shape[1], key.shape[1])
        factors = dropped(jnp.ones(shape), dropout, dropout_rng) if dropout else None
        return ring_attention(query, key, value, mask=mask, bias=bias, weight_factors=factors)
    if formula:
        weights = dropped(attention_weights(query, key, mask=mask, bias=bias), dropout, dropout_rng)
        return weighted_values(weights, value)
    if _cudnn_applies(query, bias):
        return _cudnn(query, key, value, mask, causal)
    return jax.nn.dot_product_attention(query, key, value, bias=bias, mask=mask, is_causal=causal)


def _in_blocks(query, key, value, mask, bias, causal, dropout, dropout_rng):
    """The formula for BLOCK queries at a time, and again in the backward pass: memory grows with the length alone."""
    queries, keys = query.shape[1], key.shape[1]
    whole = {"mask": mask, "bias": bias}
    parts = {name: array for name, array in whole.items() if array is not None and array.shape[2] > 1}

    @jax.checkpoint
    def attend(start, query, parts):
        given = whole | parts
        if causal:
            rows = start + jnp.arange(BLOCK)
            given["mask"] = both((jnp.arange(keys) <= rows[:, None])[None, None], given["mask"])
        rng = jax.random.fold_in(dropout_rng, start) if dropout else None
        return weighted_values(dropped(attention_weights(query, key, **given), dropout, rng), value)

    starts = jnp.arange(0, queries, BLOCK)
    blocks = starts, _blocks(query, 1), {name: _blocks(array, 2) for name, array in parts.items()}
    attended = jax.lax.map(lambda block: attend(*block), blocks)
    return jnp.moveaxis(attended, 0, 1).reshape(query.shape[0], -1, *attended.shape[3:])[:, :queries]


def _blocks(array: Array, axis: int) -> Array:
    """BLOCK rows each of an axis, filled up, along a new first one."""
    array = _filled(array, {axis: -array.shape[axis] % BLOCK})
    shape = *array.shape[:axis], -1, BLOCK, *array.shape[axis + 1 :]
    return jnp.moveaxis(array.reshape(shape), axis, 0)


def _cudnn_applies(query: Array, bias: Array | None) -> bool:
    """cuDNN takes half precision and head sizes in multiples of 8; filling up a single query would copy its cache."""
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    fits = query.shape[-1] % 8 == 0 and query.shape[-1] <= 128
    return jax.default_backend() == "gpu" and half and fits and bias is None and query.shape[1] > 1


def _cudnn(query: Array, key: Array, value: Array, mask: Mask | None, causal: bool) -> Array:
    """cuDNN's flash attention. Its backward pass takes even lengths, and masks of all queries: both are filled up."""
    queries, keys = query.shape[1], key.shape[1]
    odd = (queries % 2, keys % 2)
    query, key, value = (_filled(array, {1: more}) for array, more in ((query, odd[0]), (key, odd[1]), (value, odd[1])))
    if mask is not None:
        mask = jnp.broadcast_to(mask, (*mask.shape[:2], queries, keys))
        mask = _filled(mask, {2: odd[0], 3: odd[1]})
    # A causal mask hides the key that was added from all queries but the added one.
    counted = odd[1] and mask is None and not causal
    lengths = jnp.full(len(key), keys, jnp.int32) if counted else None
    attended = jax.nn.dot_product_attention(
        query, key, value, mask=mask, is_causal=causal, key_value_seq_lengths=lengths, implementation="cudnn"
    )
    return attended[:, :queries]


def _filled(array: Array, more: dict[int, int]) -> Array:
    """Zeros, or False, behind the array along these axes."""
    return jnp.pad(array, [(0, more.get(axis, 0)) for axis in range(array.ndim)])


def both(mask: Mask, other: Mask | None) -> Mask:
    """What two masks allow, of which one may be none."""
    return mask if other is None else mask & other


def dropped(weights: Array, rate: float, rng: Any) -> Array:
    """Weights of which the fraction `rate` is left out and the others grow by 1 / (1 - rate)."""
    if not rate:
        return weights
    keep = jax.random.bernoulli(rng, 1 - rate, weights.shape)
    return jnp.where(keep, weights / (1 - rate), 0)
