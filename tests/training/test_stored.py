"""Weights in fewer bits: int8 within half a scale of each channel, and what is kept is really smaller."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models.bert import BERT
from research.parallel.sharding import by_path
from research.training.stored import BFloat16, Int8Weights, quantised, restored, shared_axes
from tests.layers.random_params import random_params

TOKENS = jnp.array([[1, 2, 3, 8]])


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("encoder/layer_0/self_attention/query/kernel", (6, 2, 3)),
        ("encoder/layer_0/self_attention/out/kernel", (2, 3, 6)),
        ("encoder/layers/self_attention/query/kernel", (2, 6, 2, 3)),
        ("encoder/layers/feed_forward/up/kernel", (2, 6, 4)),
        ("embedding/embedding", (9, 60)),
        ("stem/conv/kernel", (3, 3, 2, 5)),
    ],
)
def test_errors_are_at_most_half_a_scale_of_the_channel(path, shape):
    """Channel by channel in float64, the channels counted out by hand."""
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32) ** 3
    array[..., -1] = 0
    if "query" in path:
        of = array.reshape(*shape[:-3], shape[-3], -1)
    elif path.endswith("embedding"):
        of = array.swapaxes(-1, -2)
    else:
        of = array.reshape(*([2] if "layers/" in path else []), -1, shape[-1])
    largest = np.abs(of).max(axis=-2)
    values, scales = quantised(array, shared_axes(path, array.ndim))
    assert values.dtype == jnp.int8 and scales.size == largest.size and np.abs(np.asarray(values, int)).max() == 127
    np.testing.assert_allclose(
        np.sort(scales.ravel()), np.sort(np.where(largest > 0, largest / 127, 1).ravel()), rtol=1e-6
    )
    error = np.abs(np.float64(values) * np.float64(scales) - array)
    bound = np.broadcast_to(np.float64(scales) / 2, shape)
    assert (error <= bound * (1 + 1e-5)).all() and error.max() > 0.3 * largest.max() / 254


def test_whole_multiples_of_a_scale_come_back_exactly():
    whole = np.random.default_rng(0).integers(-127, 128, (8, 4))
    whole[0] = 127
    array = (whole * np.float32(2.0**-5)).astype(np.float32)
    values, scales = quantised(array, (0,))
    np.testing.assert_array_equal(values, whole)
    np.testing.assert_array_equal(np.asarray(values, np.float32) * scales, array)


def test_what_is_kept_is_smaller_and_has_the_shapes_that_are_announced():
    """At the proportions of MiniLM, at most 0.27 of float32."""
    model = BERT(3000, num_layers=1, width=384, num_heads=12, mlp_width=1536, max_length=64)
    params = random_params(model, TOKENS)["params"]
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    for weights, most in ((BFloat16(), 0.5), (Int8Weights(), 0.27)):
        stored = weights.stored(params)
        assert 0.25 < sum(leaf.nbytes for leaf in jax.tree.leaves(stored)) / size <= most
        abstract = by_path(weights.abstract(params))
        assert {path: (leaf.shape, leaf.dtype) for path, leaf in by_path(stored).items()} == {
            path: (leaf.shape, leaf.dtype) for path, leaf in abstract.items()
        }
        back = restored(stored)
        assert jax.tree.structure(back) == jax.tree.structure(params)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(back))
        for path, leaf in by_path(back).items():
            given = by_path(params)[path]
            assert np.abs(leaf - given).max() <= np.abs(given).max() / 127, path
    norms = by_path(Int8Weights().stored(params))
    assert norms["encoder/layer_0/feed_forward/up/bias"].dtype == norms["embedding_norm/scale"].dtype == jnp.float32
