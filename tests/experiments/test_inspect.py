"""What `experiments.inspect` counts as padding."""

import numpy as np

from experiments.inspect import _padding


def test_sizes_of_tokens_are_no_tokens():
    tokens = np.array([[5, 6, 7, -1], [8, -1, -1, -1]], np.int32)
    batch = {"tokens": tokens, "bytes": np.ones((2, 4), np.int32), "weight": np.ones(2, np.float32)}
    assert _padding(batch, -1) == 4 / 8
