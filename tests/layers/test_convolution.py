import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.layers.convolution import EPSILON, MOMENTUM, BatchNorm, ConvNorm, fold
from research.tasks.task import Task
from research.training.state import create_state
from research.training.step import Step
from tests.training.toy import FLOAT32


def test_batch_norm_against_numpy_in_training_and_evaluation():
    x = np.random.default_rng(0).normal(3, 2, (5, 4, 4, 3))
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), jnp.asarray(x, jnp.float32))
    scale, bias = np.array([1.0, 2.0, -1.0]), np.array([0.5, 0.0, 1.0])
    variables = {**variables, "params": {"scale": jnp.float32(scale), "bias": jnp.float32(bias)}}
    y, updates = norm.apply(variables, jnp.asarray(x, jnp.float32), train=True, mutable=["batch_stats"])
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + EPSILON) * scale + bias, atol=1e-5)
    stats = updates["batch_stats"]
    moved_mean = (1 - MOMENTUM) * mean
    moved_square = MOMENTUM + (1 - MOMENTUM) * (x**2).mean((0, 1, 2))
    np.testing.assert_allclose(stats["mean"], moved_mean, rtol=1e-5)
    np.testing.assert_allclose(stats["mean_square"], moved_square, rtol=1e-5)
    y = norm.apply({**variables, **updates}, jnp.asarray(x, jnp.float32))
    expected = (x - moved_mean) / np.sqrt(moved_square - moved_mean**2 + EPSILON) * scale + bias
    np.testing.assert_allclose(y, expected, atol=1e-4)


class Net(nn.Module):
    """A norm whose output is the prediction, for `Step`."""

    def setup(self):
        self.norm = BatchNorm()

    def __call__(self, x, *, train=False):
        return self.norm(x, train=train).sum(-1)


class Squares(Task):
    def loss(self, apply, batch):
        prediction, updates = apply(batch["x"])
        return {"loss": ((prediction**2 * batch["weight"]).sum(), batch["weight"].sum())}, updates


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_running_statistics_are_those_of_the_whole_batch_under_accumulation(accumulate):
    x = np.random.default_rng(1).normal(1, 3, (16, 3)).astype(np.float32)
    step = Step(Net(), Squares(), optax.sgd(0.0), FLOAT32, 0, accumulate)
    state = create_state(step.model, (jnp.zeros((1, 3)),), step.optimizer, seed=0, ema=False)
    for _ in range(2):
        state, _ = jax.jit(step.train)(state, {"x": x, "weight": np.ones(16, np.float32)})
    mean, square = np.zeros(3), np.ones(3)
    for _ in range(2):
        mean = MOMENTUM * mean + (1 - MOMENTUM) * np.float64(x).mean(0)
        square = MOMENTUM * square + (1 - MOMENTUM) * (np.float64(x) ** 2).mean(0)
    stats = state.model_state["batch_stats"]["norm"]
    np.testing.assert_allclose(stats["mean"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats["mean_square"], square, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"kernel": 3, "stride": 2}, {"kernel": 3, "groups": -1}, {"use_bias": True}])
def test_folding_changes_no_output(options):
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 4))
    features = 4 if "groups" in options else 5
    layer = ConvNorm(features, **options)
    variables = layer.init(jax.random.key(1), x)
    random = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: leaf + 0.3 * random.uniform(size=leaf.shape), variables)
    folded = fold(variables)
    assert set(folded["params"]) == {"conv"}
    np.testing.assert_allclose(
        ConvNorm(features, **options, folded=True).apply(folded, x), layer.apply(variables, x), atol=1e-5
    )


@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "height"), [(3, 1, 1, 6), (3, 2, 1, 7), (5, 2, 2, 8), (2, 2, 0, 5)]
)
def test_depthwise_convolution_and_its_gradients_against_numpy(kernel, stride, pad, height):
    random = np.random.default_rng(0)
    images, weights = random.normal(size=(2, height, 6, 3)), random.normal(size=(kernel, kernel, 1, 3))
    padded = np.pad(images, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    rows, columns = ((size - kernel) // stride + 1 for size in padded.shape[1:3])
    cotangent = random.normal(size=(2, rows, columns, 3))
    expected, by_padded, by_weights = np.zeros(cotangent.shape), np.zeros(padded.shape), np.zeros(weights.shape)
    for row, column in np.ndindex(rows, columns):
        place = np.s_[:, row * stride : row * stride + kernel, column * stride : column * stride + kernel]
        expected[:, row, column] = (padded[place] * weights[..., 0, :]).sum((1, 2))
        by_padded[place] += cotangent[:, row, column][:, None, None] * weights[..., 0, :]
        by_weights[..., 0, :] += (padded[place] * cotangent[:, row, column][:, None, None]).sum(0)
    by_images = by_padded[:, pad : pad + height, pad : pad + 6]

    layer = ConvNorm(3, kernel, stride, groups=-1, padding=pad, folded=True)
    variables = {"params": {"conv": {"kernel": jnp.float32(weights), "bias": jnp.zeros(3)}}}
    for apply in (layer.apply, jax.jit(layer.apply)):
        found, backward = jax.vjp(apply, variables, jnp.float32(images))
        gradients, images_gradient = backward(jnp.float32(cotangent))
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(images_gradient, by_images, atol=1e-5)
        np.testing.assert_allclose(gradients["params"]["conv"]["kernel"], by_weights, atol=2e-5)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), variables)
    np.testing.assert_allclose(layer.apply(half, jnp.bfloat16(images)).astype(float), expected, atol=0.1)
    assert layer.apply(half, jnp.bfloat16(images)).dtype == jnp.bfloat16


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_of_one_pixel_and_its_gradients_against_numpy(stride):
    random = np.random.default_rng(0)
    images, weights = random.normal(size=(2, 5, 6, 3)), random.normal(size=(1, 1, 3, 4))
    seen = images[:, ::stride, ::stride]
    cotangent = random.normal(size=(*seen.shape[:3], 4))
    by_images = np.zeros(images.shape)
    by_images[:, ::stride, ::stride] = cotangent @ weights[0, 0].T
    layer = ConvNorm(4, 1, stride, folded=True)
    variables = {"params": {"conv": {"kernel": jnp.float32(weights), "bias": jnp.zeros(4)}}}
    found, backward = jax.vjp(layer.apply, variables, jnp.float32(images))
    gradients, images_gradient = backward(jnp.float32(cotangent))
    np.testing.assert_allclose(found, seen @ weights[0, 0], atol=1e-5)
    np.testing.assert_allclose(images_gradient, by_images, atol=1e-5)
    by_weights = np.einsum("nhwc,nhwf->cf", seen, cotangent)[None, None]
    np.testing.assert_allclose(gradients["params"]["conv"]["kernel"], by_weights, atol=2e-5)
