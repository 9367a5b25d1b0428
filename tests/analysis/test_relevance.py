import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from research.analysis.relevance import grad_cam


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
