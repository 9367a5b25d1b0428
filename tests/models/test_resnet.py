import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.analysis import cost
from research.errors import UserError
from research.layers.convolution import fold
from research.models.resnet import ResNet, fields
from tests.models import golden


@pytest.mark.parametrize(
    ("name", "millions", "billions"),
    [("18", 11.690, 1.8), ("34", 21.798, 3.6), ("50", 25.557, 4.1), ("101", 44.549, 7.8)],
)
def test_parameters_and_macs_of_the_published_sizes(name, millions, billions):
    """ResNet-50: 25.557 million and 4.1 GMACs; the others as in timm's table, with 3.6, 3.8 and 7.6 as in table 1 of
    the paper, whose bottlenecks have the stride elsewhere."""
    model, image = ResNet(1000, **fields(name)), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    assert round(cost.total_bytes(variables["params"]) / 4e6, 3) == millions
    assert cost.flops(model.apply, variables, image) / 2e9 == pytest.approx(billions, rel=0.02)


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_it_answers_what_timm_answers_also_folded(kind):
    model = ResNet(10, depths=(1, 1, 2, 1), bottleneck=kind == "bottleneck", width=4)
    variables, images, expected = golden.check_answers(f"resnet_{kind}", model)
    folded = fold(variables)
    shapes = jax.eval_shape(model.clone(folded=True).init, jax.random.key(0), images)
    assert jax.tree.structure(folded) == jax.tree.structure(shapes)
    np.testing.assert_allclose(model.clone(folded=True).apply(folded, images), expected, atol=1e-4)


def test_small_images_are_not_pooled():
    model = ResNet(10, depths=(1, 1), bottleneck=False, width=4, small_images=True)
    images = jnp.zeros((1, 32, 32, 3))
    variables = model.init(jax.random.key(0), images)
    assert model.apply(variables, images, method="feature_map").shape == (1, 16, 16, 8)


def test_unknown_sizes_are_refused():
    with pytest.raises(UserError, match="ResNet size '19' is unknown: use one of 18, 34, 50, 101"):
        fields("19")


def test_frozen_normalisation_stays_as_it_was_taken_over():
    """Training answers as evaluation does, and changes nothing; the parameters are those of the convolutions."""
    model = ResNet(0, depths=(1, 1), bottleneck=False, width=4)
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    variables = model.init(jax.random.key(0), images)
    stats = jax.tree.map(lambda leaf: leaf + 0.3, variables["batch_stats"])
    params = jax.tree.map(lambda leaf: leaf + 0.2, variables["params"])
    expected = model.apply({"params": params, "batch_stats": stats}, images)

    def moved(params, stats):
        """The same with every `scale` and `bias` among the statistics."""
        left, taken = {}, dict(stats)
        for name, part in params.items():
            if name == "norm":
                taken[name] = {**stats[name], **part}
            elif isinstance(part, dict):
                left[name], below = moved(part, stats.get(name, {}))
                taken |= {name: below} if below else {}
            else:
                left[name] = part
        return left, taken

    params, stats = moved(params, stats)
    frozen = model.clone(frozen_norm=True)
    shapes = jax.eval_shape(frozen.init, jax.random.key(0), images)
    assert jax.tree.structure(shapes) == jax.tree.structure({"params": params, "batch_stats": stats})
    trained, updates = frozen.apply(
        {"params": params, "batch_stats": stats}, images, train=True, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(trained, expected, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], stats)
