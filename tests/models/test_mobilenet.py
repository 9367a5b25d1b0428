import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.analysis import cost
from research.layers.convolution import fold
from research.models.mobilenet import MobileNet, divisible
from tests.models import golden


@pytest.mark.parametrize(("version", "millions", "billions"), [("v2", 3.505, 0.30), ("v3", 5.483, 0.22)])
def test_parameters_and_macs_as_published(version, millions, billions):
    model, image = MobileNet(1000, version), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    assert round(cost.total_bytes(variables["params"]) / 4e6, 3) == millions
    assert cost.flops(model.apply, variables, image) / 2e9 == pytest.approx(billions, rel=0.02)


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_it_answers_what_timm_answers_also_folded(version):
    model = MobileNet(10, version, multiplier=0.1, head_width=32)
    variables, images, expected = golden.check_answers(f"mobilenet_{version}", model)
    np.testing.assert_allclose(model.clone(folded=True).apply(fold(variables), images), expected, atol=1e-4)


def test_channels_are_rounded_as_in_the_published_code():
    """By hand: 0.75 · 32 = 24; 1.4 · 16 = 22.4 -> 24; 0.5 · 24 = 12 -> 16, for 8 is under 90 %; never under 8."""
    assert [divisible(value) for value in (24, 22.4, 12, 3.2, 11)] == [24, 24, 16, 8, 16]
