import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.analysis.relevance import grad_cam
from research.models import mobilenet
from research.models.efficientformer import EfficientFormer
from research.models.mobilenet import MobileNet
from research.models.resnet import ResNet
from research.models.swin import Swin

MODELS = {
    "resnet": ResNet(3, depths=(1, 1), bottleneck=False, width=4, small_images=True),
    "mobilenet": MobileNet(3, multiplier=0.1, head_width=8),
    "efficientformer": EfficientFormer(3, (1, 1, 1, 1), (8, 8, 8, 8), num_attention=1, resolution=2),
    "swin": Swin(3, width=8, depths=(1, 1), num_heads=(1, 1), window=4),
}


class Net(nn.Module):
    """A feature map, its mean, and a head that is not linear."""

    def setup(self):
        self.conv, self.hidden, self.head = nn.Conv(4, (3, 3)), nn.Dense(5), nn.Dense(3)

    def feature_map(self, images):
        return jnp.tanh(self.conv(images))

    def __call__(self, images):
        return self.head(jnp.tanh(self.hidden(self.feature_map(images).mean(axis=(1, 2)))))


def test_grad_cam_against_numpy():
    images = jax.random.normal(jax.random.key(0), (2, 6, 5, 3))
    net = Net()
    variables = net.init(jax.random.key(1), images)
    classes = np.array([2, 0])
    features = np.float64(net.apply(variables, images, method="feature_map"))
    params = jax.tree.map(np.float64, variables["params"])
    inner = np.tanh(features.mean(axis=(1, 2)) @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    by_inner = params["head"]["kernel"][:, classes].T * (1 - inner**2)
    weights = by_inner @ params["hidden"]["kernel"].T / 30  # each of 6 x 5 places has this share of the mean
    expected = np.maximum((features * weights[:, None, None]).sum(axis=-1), 0)
    assert (expected > 0).any() and (expected == 0).any()
    np.testing.assert_allclose(grad_cam(net, variables, images, jnp.array(classes)), expected, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_relevance_of_every_model_with_a_feature_map(name, monkeypatch):
    """All have a linear head over the mean: a place's relevance is its part of the logit, without the bias."""
    monkeypatch.setattr(mobilenet, "V2", mobilenet.V2[:2])
    model, images = MODELS[name], jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
    variables = jax.jit(model.init)(jax.random.key(1), images)
    heads = [module for module in ("head", "head_distillation") if module in variables["params"]]
    random = np.random.default_rng(0)
    for head in heads:
        kernel = variables["params"][head]["kernel"]
        variables["params"][head]["kernel"] = jnp.array(random.normal(size=kernel.shape), jnp.float32)
    kernel = np.mean([np.float64(variables["params"][head]["kernel"]) for head in heads], axis=0)
    features = np.float64(jax.jit(lambda v, x: model.apply(v, x, method="feature_map"))(variables, images))
    places = features.shape[1] * features.shape[2]
    expected = np.maximum(np.einsum("brcf,fb->brc", features, kernel[:, [2, 0]]) / places, 0)
    found = jax.jit(lambda v, x, y: grad_cam(model, v, x, y))(variables, images, jnp.array([2, 0]))
    assert (expected > 0).any()
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.max())


def test_relevance_lies_where_the_class_is_seen():
    """A network that passes the colours on, with a class for each: the square of that colour, and nothing else."""
    images = np.zeros((1, 16, 16, 3), np.float32)
    images[0, 2:6, 3:8, 0] = 1  # red
    images[0, 9:14, 8:13, 2] = 1  # blue
    model = ResNet(3, depths=(1,), bottleneck=False, width=3, small_images=True)  # new blocks are identities
    variables = jax.jit(model.init)(jax.random.key(0), images)
    passes = jnp.zeros((3, 3, 3, 3)).at[1, 1].set(jnp.eye(3))
    variables["params"]["stem"]["conv"]["kernel"] = passes
    variables["params"]["head"]["kernel"] = jnp.eye(3)
    for colour in (0, 2):
        relevance = np.asarray(grad_cam(model, variables, jnp.array(images), jnp.array([colour])))[0]
        np.testing.assert_array_equal(relevance > 0, images[0, :, :, colour] > 0)
