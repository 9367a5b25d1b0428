import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import UserError
from research.layers.positions import sincos_2d
from research.models.vit import ViT, fields
from tests.layers.random_params import random_params

IMAGES = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))


def tiny(**overrides):
    return ViT(
        **{"num_classes": 5, "patch_size": 4, "width": 8, "num_layers": 2, "num_heads": 2, "mlp_width": 16} | overrides
    )


@pytest.mark.parametrize(
    ("name", "millions"), [("Ti/16", 5.717), ("S/16", 22.051), ("B/16", 86.568), ("B/32", 88.224), ("L/16", 304.327)]
)
def test_parameters_of_the_published_sizes(name, millions):
    model = ViT(1000, **fields(name))
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))["params"]
    assert round(sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6, 3) == millions
    assert set(params) == {"patch_embedding", "cls_token", "position_embedding", "encoder", "head"}


@pytest.mark.parametrize("name", ["X/16", "B", "B/0", "B/x"])
def test_unknown_sizes_are_refused(name):
    with pytest.raises(UserError, match=f"ViT size '{name}' is unknown: use one of Ti, S, B, L, H"):
        fields(name)


def test_huge_is_the_papers():
    assert fields("H/14") == {"width": 1280, "num_layers": 32, "num_heads": 16, "mlp_width": 5120, "patch_size": 14}


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("positions", ["learned", "sincos2d"])
def test_the_head_reads_what_the_pool_gives(pool, positions):
    model, bare = (tiny(pool=pool, positions=positions, num_classes=classes) for classes in (5, 0))
    params = random_params(model, IMAGES)
    head = params["params"]["head"]
    features = bare.apply({"params": {k: v for k, v in params["params"].items() if k != "head"}}, IMAGES)
    encoded = model.apply(params, IMAGES, capture_intermediates=True)[1]["intermediates"]["encoder"]["__call__"][0]
    assert encoded.shape == (2, 4 + (pool == "cls"), 8)
    np.testing.assert_allclose(features, encoded[:, 0] if pool == "cls" else encoded.mean(axis=1), atol=1e-6)
    logits = model.apply(params, IMAGES)
    np.testing.assert_allclose(logits, features @ head["kernel"] + head["bias"], atol=1e-5)


def test_positions_are_added_to_the_patches():
    model = tiny(pool="mean", positions="sincos2d", num_classes=0)
    learned = tiny(pool="mean", num_classes=0)
    params = random_params(model, IMAGES)
    table = {"params": params["params"] | {"position_embedding": sincos_2d(2, 2, 8)}}
    np.testing.assert_allclose(model.apply(params, IMAGES), learned.apply(table, IMAGES), atol=1e-6)
    params = random_params(tiny(), IMAGES)
    order = IMAGES.at[:, :4, :4].set(IMAGES[:, 4:, 4:]).at[:, 4:, 4:].set(IMAGES[:, :4, :4])
    assert not np.allclose(tiny().apply(params, order), tiny().apply(params, IMAGES), atol=1e-3)


@pytest.mark.parametrize("overrides", [{}, {"pool": "mean", "positions": "sincos2d", "scan": True}])
def test_half_precision_parameters_make_half_precision_hidden_states(overrides):
    model = tiny(**overrides)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), random_params(model, IMAGES))
    logits, state = model.apply(params, IMAGES, capture_intermediates=True)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(state["intermediates"]["encoder"])} == {jnp.dtype("bfloat16")}


def test_dropout_and_stochastic_depth_act_in_training_only():
    params = random_params(tiny(), IMAGES)
    expected = tiny().apply(params, IMAGES)
    for overrides in ({"dropout": 0.5}, {"stochastic_depth": 0.9}):
        model = tiny(**overrides)
        trained = model.apply(params, IMAGES, train=True, rngs={"dropout": jax.random.key(0)})
        assert not np.allclose(trained, expected, atol=1e-2)
        np.testing.assert_allclose(model.apply(params, IMAGES), expected, atol=1e-6)


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="8 x 6 pixels is not divisible into patches of 4"):
        tiny().init(jax.random.key(0), jnp.zeros((1, 8, 6, 3)))
    with pytest.raises(UserError, match="the image makes 10 tokens, the model's position table has 5"):
        tiny().apply(random_params(tiny(), IMAGES), jnp.zeros((1, 12, 12, 3)))
