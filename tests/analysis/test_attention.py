import numpy as np

from research.analysis.attention import rollout


def test_rollout_multiplies_half_attention_half_identity():
    random = np.random.default_rng(0)
    layers = {f"layer_{i}": random.dirichlet(np.ones(3), size=(2, 4, 3)).astype(np.float32) for i in range(3)}
    expected = np.eye(3)[None].repeat(2, axis=0)
    for layer in layers.values():
        expected = (layer.mean(axis=1) + np.eye(3)) / 2 @ expected
    found = rollout(layers)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-6)


def test_attention_to_one_token_alone_rolls_out_to_it():
    """Two layers in which all tokens look at token 1: a quarter of a token is left of itself."""
    look = np.zeros((1, 1, 3, 3), np.float32)
    look[..., 1] = 1
    np.testing.assert_allclose(rollout({"a": look, "b": look})[0, 0], [0.25, 0.75, 0.0])
