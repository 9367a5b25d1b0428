"""Ring attention: exact attention over sequences that are split over devices (Liu et al. 2023)."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from research.parallel.mesh import BATCH_AXES, ways


def ring_attention(
    query: Float[Array, "batch queries heads head_size"],
    key: Float[Array, "batch keys kv_heads head_size"],
    value: Float[Array, "batch keys kv_heads value_size"],
    *,
    mask: Bool[Array, "#batch #heads #queries #keys"] | None = None,
    bias: Float[Array, "#batch #heads #queries #keys"] | None = None,
    weight_factors: Float[Array, "batch heads queries keys"] | None = None,
) -> Float[Array, "batch queries heads value_size"]:
    """The same as `attention_weights` and `weighted_values`, under the mesh that is set, split by its sequence axis.

    Each device keeps its part of the queries while keys and values travel around the ring; the softmax is built up
    block by block (Milakov & Gimelshein 2018), so that no device ever holds all keys. weight_factors multiply the
    weights after the softmax (dropout). Lengths that the axis does not divide are padded here.
    """
    blocks = ways("sequence")
    queries, keys = query.shape[1], key.shape[1]
    query = _padded(query, blocks, axis=1)
    key, value = (_padded(array, blocks, axis=1) for array in (key, value))
    extras = []
    for array in (mask, bias, weight_factors):
        if array is not None:
            array = jnp.broadcast_to(array, (*array.shape[:3], keys))
            array = _padded(array if array.shape[2] == 1 else _padded(array, blocks, axis=2), blocks, axis=3)
        extras.append(array)
    split = PartitionSpec(BATCH_AXES, "sequence", "tensor")
    ring = jax.shard_map(
        lambda query, key, value, extras: _ring(query, key, value, extras, blocks, keys),
        in_specs=(split, split, split, [None if array is None else _spec(array) for array in extras]),
        out_specs=split,
    )
    return ring(query, key, value, extras)[:, :queries]


def _padded(array: Array, multiple: int, axis: int) -> Array:
    missing = -array.shape[axis] % multiple
    return jnp.pad(array, [(0, missing if each == axis else 0) for each in range(array.ndim)])


def _spec(array: Array) -> PartitionSpec:
    """Batch, heads and queries split as those of the query where they are not broadcast; all keys."""
    axes = (BATCH_AXES, "tensor", "sequence")
    return PartitionSpec(*(axis if size > 1 else None for axis, size in zip(axes, array.shape, strict=False)))


def _ring(query: Array, key: Array, value: Array, extras: list[Array | None], num_blocks: int, keys: int) -> Array:
    """One device's part: its queries against each block of keys in turn, its own first; beyond `keys` is padding."""
    batch, queries, heads, head_size = query.shape
    block, kv_heads = key.shape[1:3]
    grouped = query.reshape(batch, queries, kv_heads, heads // kv_heads, head_size)
    here = jax.lax.axis_index("sequence")

    # Recomputed in the backward pass: the weights of all blocks would be what the ring is there to avoid.
    @jax.checkpoint
    def attend(state, key, value, blocks, start):
        mask, bias, factors = blocks
        highest, total, attended = state
        logits = jnp.einsum("bqhgd,bkhd->bhgqk", grouped, key, preferred_element_type=jnp.float32)
        logits = logits.reshape(batch, heads, queries, block) * head_size**-0.5
        logits = logits if bias is None else logits + bias
        logits = logits if mask is None else jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
        if keys % num_blocks:
            logits = jnp.where(start + jnp.arange(block) < keys, logits, -jnp.inf)
        # The result does not depend on it. Its gradient is rounding alone, and infinite where the compiler computes the
        # logits twice: it is shared among the logits that equal the highest, and then none may.
        new_highest = jax.lax.stop_gradient(jnp.maximum(highest, logits.max(axis=-1)))
        weights = jnp.exp(logits - new_highest[..., None])
        keep = jnp.exp(highest - new_highest)
        total = total * keep + weights.sum(axis=-1)
        weights = weights if factors is None else weights * factors
        weights = weights.reshape(batch, kv_heads, heads // kv_heads, queries, block)
        summed = jnp.einsum("bhgqk,bkhd->bhgqd", weights, value.astype(jnp.float32))
        return new_highest, total, attended * keep[..., None] + summed.reshape(batch, heads, queries, -1)

    state = (
        jnp.full((batch, heads, queries), jnp.finfo(jnp.float32).min),
        jnp.zeros((batch, heads, queries)),
        jnp.zeros((batch, heads, queries, value.shape[-1])),
    )
    to_next = [(device, (device + 1) % num_blocks) for device in range(num_blocks)]
    for turn in range(num_blocks):
        if turn:
            key, value = (jax.lax.ppermute(array, "sequence", to_next) for array in (key, value))
        start = (here - turn) % num_blocks * block
        blocks = [
            None if array is None else jax.lax.dynamic_slice_in_dim(array, start, block, axis=3) for array in extras
        ]
        state = attend(state, key, value, blocks, start)
    _, total, attended = state
    return (attended / total[..., None]).astype(value.dtype).swapaxes(1, 2)
