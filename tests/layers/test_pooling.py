"""Pooling and its gradients against loops of numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.layers.pooling import max_pool, mean_pool


@pytest.mark.parametrize(("window", "stride", "padding", "height"), [(3, 2, 1, 7), (3, 2, 1, 8), (2, 2, 0, 6)])
def test_max_pool_and_its_gradient_with_ties(window, stride, padding, height):
    random = np.random.default_rng(0)
    x = random.integers(-3, 3, (2, height, 6, 2)).astype(np.float64)  # many equal ones
    padded = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)], constant_values=-np.inf)
    rows, columns = ((size - window) // stride + 1 for size in padded.shape[1:3])
    cotangent = random.normal(size=(2, rows, columns, 2))
    expected, gradient = np.zeros(cotangent.shape), np.zeros(padded.shape)
    for place in np.ndindex(cotangent.shape):
        image, row, column, channel = place
        square = padded[image, row * stride :, column * stride :, channel][:window, :window]
        first = np.unravel_index(square.argmax(), square.shape)
        expected[place] = square[first]
        gradient[image, row * stride + first[0], column * stride + first[1], channel] += cotangent[place]
    found, backward = jax.vjp(lambda x: max_pool(x, window, stride, padding), jnp.float32(x))
    np.testing.assert_array_equal(found, expected)
    inside = gradient[:, padding : padding + height, padding : padding + 6]
    np.testing.assert_allclose(backward(jnp.float32(cotangent))[0], inside, atol=1e-6)


@pytest.mark.parametrize("place", [(0, 0), (1, 2), (2, 1)])
def test_a_value_that_is_not_a_number_is_not_hidden(place):
    x = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
    x[0, place[0], place[1], 0] = np.nan
    assert np.isnan(max_pool(jnp.asarray(x), 3, 1)).all()


@pytest.mark.parametrize(("height", "width"), [(5, 4), (2, 1)])
def test_mean_pool_and_its_gradient(height, width):
    random = np.random.default_rng(0)
    x, cotangent = random.normal(size=(2, 2, height, width, 3))
    expected, gradient = np.zeros(x.shape), np.zeros(x.shape)
    for row, column in np.ndindex(height, width):
        square = np.s_[:, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        count = x[square].shape[1] * x[square].shape[2]
        expected[:, row, column] = x[square].sum((1, 2)) / count
        gradient[square] += cotangent[:, row, column][:, None, None] / count
    found, backward = jax.vjp(lambda x: mean_pool(x, 3), jnp.float32(x))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(backward(jnp.float32(cotangent))[0], gradient, atol=1e-5)
    assert mean_pool(jnp.bfloat16(x), 3).dtype == jnp.bfloat16
