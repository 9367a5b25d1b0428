import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.decoding.cache import gather_cache, init_cache
from research.models.gpt import GPT
from research.models.seq2seq import Seq2Seq


@pytest.mark.parametrize("scan", [False, True])
def test_a_cache_starts_as_zeros_and_its_rows_can_be_picked(scan):
    model = GPT(9, num_layers=3, width=8, num_heads=2, num_kv_heads=1, scan=scan)
    cache = init_cache(model, jnp.zeros((2, 5), jnp.int32))
    axis = (3,) if scan else ()
    leaves = jax.tree.leaves(cache)
    assert {leaf.shape for leaf in leaves} == {(*axis, 2, 5, 1, 4)} and len(leaves) == (2 if scan else 6)
    assert not any(leaf.any() for leaf in leaves)

    filled = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(0), leaf.shape), cache)
    rows = [1, 1, 0]
    picked = gather_cache(filled, jnp.array(rows))
    for before, after in zip(jax.tree.leaves(filled), jax.tree.leaves(picked), strict=True):
        np.testing.assert_array_equal(after, np.asarray(before)[:, rows] if scan else np.asarray(before)[rows])


def test_a_memory_is_not_copied_for_new_rows():
    model = Seq2Seq(9, num_layers=1, width=8, num_heads=2, mlp_width=8)
    memory, valid = jnp.zeros((2, 3, 8)), jnp.ones((2, 3), bool)
    cache = init_cache(model, jnp.zeros((2, 5), jnp.int32), memory, valid, method="decode")
    layer = gather_cache(cache, jnp.array([1, 1, 0, 0]))["decoder"]["layer_0"]
    assert layer["self_attention"]["cached_key"].shape[:2] == (4, 5)
    assert layer["cross_attention"]["cached_key"].shape[:2] == (2, 3)
