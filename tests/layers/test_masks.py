import jax.numpy as jnp
import numpy as np

from research.layers.masks import causal_mask, padding_mask, segment_mask, window_mask


def test_masks_against_their_definitions():
    length, valid = 4, np.array([[True, True, False, False], [True] * 4])
    segments = np.array([[0, 0, 1, 1], [0, 1, 1, 2]])
    expected = {name: np.zeros((2, 1, length, length), bool) for name in ("causal", "padding", "segments", "window")}
    for row in range(2):
        for query in range(length):
            for key in range(length):
                expected["causal"][row, 0, query, key] = key <= query
                expected["padding"][row, 0, query, key] = valid[row, key]
                expected["segments"][row, 0, query, key] = segments[row, query] == segments[row, key]
                expected["window"][row, 0, query, key] = abs(query - key) <= 2
    masks = {
        "causal": causal_mask(length),
        "padding": padding_mask(jnp.asarray(valid)),
        "segments": segment_mask(jnp.asarray(segments), jnp.asarray(segments)),
        "window": window_mask(length, 2),
    }
    shapes = {"causal": (1, 1, 4, 4), "padding": (2, 1, 1, 4), "segments": (2, 1, 4, 4), "window": (1, 1, 4, 4)}
    for name, mask in masks.items():
        assert mask.dtype == bool and mask.shape == shapes[name]
        np.testing.assert_array_equal(np.broadcast_to(mask, (2, 1, length, length)), expected[name])
