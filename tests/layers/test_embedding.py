import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import UserError
from research.layers.embedding import PatchEmbedding, TokenEmbedding, vocabulary_logits


@pytest.mark.parametrize(("scale", "deviation"), [(True, 1 / 8), (False, 0.02)])
def test_token_embedding_ties_input_and_output(scale, deviation):
    module, tokens = TokenEmbedding(500, 64, scale), jnp.array([[3, 499], [0, 7]])
    params = module.init(jax.random.key(0), tokens)
    table = params["params"]["embedding"]
    assert float(table.std()) == pytest.approx(deviation, rel=0.02)
    np.testing.assert_allclose(module.apply(params, tokens), table[tokens] * (8 if scale else 1), rtol=1e-6)
    x = jax.random.normal(jax.random.key(1), (2, 64))
    expected = np.asarray(x, np.float64) @ np.asarray(table, np.float64).T
    np.testing.assert_allclose(vocabulary_logits(x, table), expected, atol=1e-5)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    assert module.apply(half, tokens).dtype == jnp.bfloat16
    assert vocabulary_logits(x.astype(jnp.bfloat16), table.astype(jnp.bfloat16)).dtype == jnp.float32
    assert jnp.isnan(module.apply(params, jnp.array([500]))).all()


def test_patches_are_projected_one_by_one():
    module, generator = PatchEmbedding(2, 5), np.random.default_rng(0)
    images = generator.normal(size=(2, 4, 6, 3))
    kernel, bias = generator.normal(size=(2, 2, 3, 5)), generator.normal(size=5)
    params = {"params": {"projection": {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}}}
    output = module.apply(params, jnp.float32(images))
    assert output.shape == (2, 2, 3, 5)
    for row in range(2):
        for column in range(3):
            patch = images[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].reshape(2, 12)
            np.testing.assert_allclose(output[:, row, column], patch @ kernel.reshape(12, 5) + bias, atol=1e-5)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    assert module.apply(half, jnp.float32(images)).dtype == jnp.bfloat16
    with pytest.raises(UserError, match="4 x 5 pixels is not divisible into patches of 2"):
        module.apply(params, jnp.zeros((1, 4, 5, 3)))
