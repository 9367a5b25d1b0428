"""The losses of pairs against their formulas in float64, whole and in parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import UserError
from research.tasks.pair_losses import encoded, number_of_chunks, pair_losses

RANDOM = np.random.default_rng(0)


def unit(count: int) -> np.ndarray:
    vectors = RANDOM.normal(size=(count, 5))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


IMAGES, TEXTS = unit(8), unit(8)
WEIGHTS = np.array([1, 1, 1, 0, 1, 1, 0, 1.0])


def reference(kind: str, scale: float, bias: float) -> tuple[np.ndarray, np.ndarray]:
    """By loops over the pairs that count."""
    there = np.flatnonzero(WEIGHTS)
    losses, found = np.zeros(8), np.zeros(8, bool)
    logits = scale * IMAGES @ TEXTS.T + bias
    for i in there:
        if kind == "clip":
            row = -np.log(np.exp(logits[i, i]) / sum(np.exp(logits[i, j]) for j in there))
            column = -np.log(np.exp(logits[i, i]) / sum(np.exp(logits[j, i]) for j in there))
            losses[i] = (row + column) / 2
        else:
            losses[i] = -sum(np.log(1 / (1 + np.exp(-(1 if i == j else -1) * logits[i, j]))) for j in there)
        found[i] = all(logits[i, i] > logits[i, j] for j in there if j != i)
    return losses, found


@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize(("kind", "scale", "bias"), [("clip", 1 / 0.07, 0.0), ("siglip", 10.0, -10.0)])
def test_losses_are_those_of_the_papers_in_any_number_of_parts(kind, scale, bias, count):
    losses, found = pair_losses(kind, *map(jnp.float32, (IMAGES, TEXTS, scale, bias, WEIGHTS)), count)
    expected, right = reference(kind, scale, bias)
    there = WEIGHTS > 0
    np.testing.assert_allclose(losses[there], expected[there], rtol=1e-5, atol=2e-6)
    np.testing.assert_array_equal(found[there], right[there])


@pytest.mark.parametrize(("kind", "scale", "bias"), [("clip", 1 / 0.07, 0.0), ("siglip", 10.0, -10.0)])
def test_gradients_are_those_of_finite_differences(kind, scale, bias):
    def total(images, scale):
        texts, offset, weights = map(jnp.float32, (TEXTS, bias, WEIGHTS))
        losses, _ = pair_losses(kind, images, texts, scale, offset, weights, 4)
        return (losses * weights).sum()

    by_images, by_scale = jax.grad(total, (0, 1))(jnp.float32(IMAGES), jnp.float32(scale))
    step = 1e-6
    for place in ((0, 0), (4, 3), (3, 1)):
        values = []
        for sign in (1, -1):
            kept = IMAGES[place]
            IMAGES[place] += sign * step
            values.append((reference(kind, scale, bias)[0] * WEIGHTS).sum())
            IMAGES[place] = kept
        assert by_images[place] == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-3, abs=1e-4)
    values = [(reference(kind, scale + sign * step, bias)[0] * WEIGHTS).sum() for sign in (1, -1)]
    assert by_scale == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-3, abs=1e-4)


def test_a_vector_that_is_not_a_number_finds_nothing():
    images = jnp.float32(IMAGES).at[0].set(jnp.nan)
    _, found = pair_losses("clip", images, jnp.float32(TEXTS), jnp.float32(1), jnp.float32(0), jnp.ones(8))
    assert not found[0]


def test_examples_are_encoded_in_their_places():
    def encode(x, y):
        return x + y, {"mean": x.mean()}

    x, y = jnp.arange(24.0).reshape(12, 2), jnp.ones((12, 2))
    for count in (1, 3, 12):
        vectors, updates = encoded(encode, (x, y), count)
        np.testing.assert_array_equal(vectors, x + y)
        assert updates["mean"] == pytest.approx(11.5)


def test_chunks_have_to_be_equal():
    assert [number_of_chunks(64, chunk) for chunk in (None, 64, 100, 16)] == [1, 1, 1, 4]
    with pytest.raises(UserError, match=r"task\.chunk 48 does not divide a batch of 64 evenly on every device: use 32"):
        number_of_chunks(64, 48)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_equal_vectors_find_nothing(kind):
    """As those of a model that has collapsed."""
    same = jnp.ones((8, 5), jnp.float32)
    _, found = pair_losses(kind, same, same, jnp.float32(1), jnp.float32(0), jnp.ones(8), 2)
    assert not found.any()
