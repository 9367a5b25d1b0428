"""Positions: sinusoidal, learned, 2-D sine-cosine, rotary and relative bias (Shaw's relations are in attention.py)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Real

from research.errors import UserError


def sinusoidal(positions: Real[Array, "*lengths"], width: int) -> Float32[Array, "*lengths {width}"]:
    """PE(pos, 2i) = sin(pos / 10000^(2i/width)), PE(pos, 2i+1) = cos of the same (Vaswani et al. 2017, section 3.5)."""
    if width % 2:
        raise UserError(f"width {width} is odd: sinusoidal positions need an even one")
    angles = positions[..., None] * _inverse_frequencies(width, 10_000.0)
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*positions.shape, width)


def sinusoidal_positions(length: int, width: int) -> Float32[Array, "{length} {width}"]:
    """The table of `sinusoidal` for positions 0 .. length - 1."""
    return sinusoidal(jnp.arange(length), width)


def sincos_2d(
    height: int, width_in_patches: int, channels: int, *, longest: bool = True
) -> Float32[Array, "{height}*{width_in_patches} {channels}"]:
    """Row-major table for a grid of patches: a quarter of the channels each for sin x, cos x, sin y and cos y.

    Chen et al. 2021 (MoCo v3); wavelengths from 2π to 10000 · 2π with both ends included, as in big_vision, or without
    the `longest`, as He et al. 2022 published their masked autoencoders.
    """
    if channels % 4 or channels < 8:
        raise UserError(f"width {channels} is not a multiple of 4 from 8 up: sincos2d positions need one")
    frequencies = 10_000.0 ** -jnp.linspace(0.0, 1.0, channels // 4, endpoint=longest)
    y, x = jnp.mgrid[:height, :width_in_patches]
    x, y = (axis.reshape(-1, 1) * frequencies for axis in (x, y))
    return jnp.concatenate([jnp.sin(x), jnp.cos(x), jnp.sin(y), jnp.cos(y)], axis=-1)


def resample_positions(
    table: Float[Array, "tokens width"], grid: tuple[int, int], prefix: int
) -> Float[Array, "resampled width"]:
    """A learned table for another grid of patches (rows, columns), by bicubic interpolation (Dosovitskiy et al. 2021,
    section 3.2).

    prefix: rows of the result for class tokens and the like; the table may have as many or none, before the patches of
    a square grid. Those that it lacks are 0. Raises UserError for a table of another length.
    """
    rows, columns = grid
    for before in (prefix, 0):
        side = math.isqrt(max(len(table) - before, 0))
        if side and side * side == len(table) - before:
            break
    else:
        raise UserError(f"a position table of {len(table)} tokens is not a square of patches: it cannot be resampled")
    first = table[:before] if before else jnp.zeros((prefix, table.shape[1]), table.dtype)
    patches = table[before:].reshape(side, side, -1)
    if (rows, columns) != (side, side):
        patches = jax.image.resize(patches, (rows, columns, patches.shape[-1]), "bicubic")
    return jnp.concatenate([first, patches.reshape(rows * columns, -1)])


class LearnedPositions(nn.Module):
    """A trained vector for each of `max_length` positions."""

    max_length: int
    width: int

    @nn.compact
    def __call__(self, positions: Int[Array, "*lengths"]) -> Float[Array, "*lengths width"]:
        """Vectors of the positions; a position from `max_length` on gives NaN, more positions than that a UserError."""
        if positions.shape[-1] > self.max_length:
            raise UserError(
                f"length {positions.shape[-1]} exceeds max_length {self.max_length}: use a larger max_length"
            )
        table = self.param("embedding", nn.initializers.normal(0.02), (self.max_length, self.width))
        return jnp.take(table, positions, axis=0)


def rotary(
    x: Float[Array, "batch length heads head_size"], positions: Int[Array, "... length"], base: float = 10_000.0
) -> Float[Array, "batch length heads head_size"]:
    """Rotates each pair (x[2i], x[2i+1]) by position · base^(-2i/head_size) (Su et al. 2021, RoFormer, equation 34)."""
    head_size = x.shape[-1]
    if head_size % 2:
        raise UserError(f"head size {head_size} is odd: rotary positions need an even one")
    angles = (positions[..., None] * _inverse_frequencies(head_size, base))[..., None, :]
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    even, odd = x[..., 0::2].astype(jnp.float32), x[..., 1::2].astype(jnp.float32)
    rotated = jnp.stack([even * cosine - odd * sine, even * sine + odd * cosine], axis=-1)
    return rotated.reshape(x.shape).astype(x.dtype)


def segment_positions(segments: Int[Array, "batch length"]) -> Int[Array, "batch length"]:
    """Positions of packed texts, counted from 0 again wherever the segment number changes."""
    index = jnp.broadcast_to(jnp.arange(segments.shape[1]), segments.shape)
    starts = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
    return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)


class RelativeBias(nn.Module):
    """A learned number for each head and bucket of distances, added to attention logits (Raffel et al. 2020, T5, 2.1).

    Half of a direction's buckets hold one distance each, the rest grow logarithmically up to `max_distance`; the last
    takes everything beyond. `bidirectional` gives each direction half of the buckets; otherwise keys after the query
    share the bucket of distance 0.
    """

    num_heads: int
    num_buckets: int = 32
    max_distance: int = 128
    bidirectional: bool = True

    @nn.compact
    def __call__(
        self, query_positions: Int[Array, "queries"], key_positions: Int[Array, "keys"]
    ) -> Float[Array, "1 heads queries keys"]:
        table = self.param("embedding", nn.initializers.normal(0.02), (self.num_buckets, self.num_heads))
        buckets = self.buckets(key_positions[None, :] - query_positions[:, None])
        return jnp.take(table, buckets, axis=0).transpose(2, 0, 1)[None]

    def buckets(self, relative: Int[Array, "queries keys"]) -> Int[Array, "queries keys"]:
        """The bucket of each relative position (key minus query)."""
        size = self.num_buckets // 2 if self.bidirectional else self.num_buckets
        exact = size // 2
        # The first distance of each logarithmic bucket, in float64: float32 logarithms can miss a boundary by one.
        growth = np.float64(self.max_distance / exact) ** (np.arange(size - exact) / (size - exact))
        first = np.concatenate([np.arange(exact), np.ceil(exact * growth - 1e-9)]).astype(np.int32)
        distance = jnp.abs(relative) if self.bidirectional else jnp.maximum(-relative, 0)
        bucket = jnp.searchsorted(jnp.asarray(first), distance, side="right") - 1
        return bucket + size * (relative > 0) if self.bidirectional else bucket


def _inverse_frequencies(width: int, base: float) -> np.ndarray:
    return (base ** -(np.arange(0, width, 2) / width)).astype(np.float32)
