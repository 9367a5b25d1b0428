"""Pooling as the choice or the sum of shifted images.

The compiler makes one loop of each. On a CPU its own windows take several times as long, their gradients tens of times.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def max_pool(
    x: Float[Array, "batch height width channels"], window: int, stride: int, padding: int = 0
) -> Float[Array, "batch rows columns channels"]:
    """The largest value of each square of `window` pixels, `stride` apart; beyond the edge there is nothing.

    The gradient reaches the first of equal ones, row by row. NaN is larger than any number.
    """
    return functools.reduce(_larger, _shifted(x, window, stride, padding, -jnp.inf))


def _larger(first: Array, second: Array) -> Array:
    return jnp.where((second > first) | jnp.isnan(second), second, first)


def mean_pool(
    x: Float[Array, "batch height width channels"], window: int
) -> Float[Array, "batch height width channels"]:
    """The mean of the square of `window` (an odd number) pixels around each, of those within the image; in float32."""
    rows, columns = (
        np.minimum(np.arange(size) + window // 2, size - 1) - np.maximum(np.arange(size) - window // 2, 0) + 1
        for size in x.shape[1:3]
    )
    counts = jnp.float32(np.outer(rows, columns))[:, :, None]
    return (_around(x.astype(jnp.float32), window) / counts).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _around(x: Array, window: int) -> Array:
    """The sum of the square of `window` pixels around each. The matrix of this map is symmetric: its gradient is the
    map itself, which the compiler does not see."""
    return functools.reduce(jnp.add, _shifted(x, window, 1, window // 2, 0.0))


_around.defvjp(lambda x, window: (_around(x, window), None), lambda window, _, gradient: (_around(gradient, window),))


def _shifted(x: Array, window: int, stride: int, padding: int, beyond: float) -> Iterator[Array]:
    """The pixels at each place of all windows, [batch, rows, columns, channels], row by row."""
    sides = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    padded = jnp.pad(x, sides, constant_values=jnp.asarray(beyond, x.dtype))
    ends = [size - window + 1 for size in padded.shape[1:3]]
    for row, column in np.ndindex(window, window):
        yield padded[:, row : row + ends[0] : stride, column : column + ends[1] : stride]
