import numpy as np
import pytest

from research.layers.attention import MultiHeadAttention
from tests.layers.test_attention import (
    BATCH,
    HEADS,
    LENGTH,
    WIDTH,
    apply,
    assert_same,
    make,
    project,
    reference_attention,
)


@pytest.mark.parametrize("memory_length", [None, 3])
def test_embeddings_reach_queries_and_keys_but_not_values(memory_length):
    """Carion et al. 2020: query and key are projected from sums, the value from the input alone."""
    module = MultiHeadAttention(HEADS, head_size=2, cross=memory_length is not None)
    arrays, random = make(module, memory_length=memory_length), np.random.default_rng(5)
    embeddings = {
        "query_embedding": random.normal(size=(BATCH, LENGTH, WIDTH)),
        "key_embedding": random.normal(size=(1, memory_length or LENGTH, WIDTH)),  # the same for all examples
    }

    def reference(arrays):
        memory = arrays.get("memory", arrays["x"])
        query = project(arrays["x"] + arrays["query_embedding"], arrays, "query")
        key = project(memory + arrays["key_embedding"], arrays, "key")
        attended, _ = reference_attention(query, key, project(memory, arrays, "value"))
        return np.einsum("blhd,hdw->blw", attended, arrays["out/kernel"]) + arrays["out/bias"]

    def run(arrays):
        arrays = dict(arrays)
        return apply(module, arrays, **{name: arrays.pop(name) for name in embeddings})

    assert_same(run, reference, arrays | embeddings)
