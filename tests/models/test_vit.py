import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.analysis import cost
from research.errors import UserError
from research.layers.positions import resample_positions, sincos_2d
from research.models.vit import ViT, fields
from tests.layers.random_params import random_params
from tests.models import golden

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


@pytest.mark.parametrize(
    ("name", "billions"), [("Ti/16", 1.26), ("S/16", 4.6), ("B/16", 17.6), ("B/32", 4.4), ("L/16", 61.6)]
)
def test_macs_of_the_published_sizes(name, billions):
    """Within 2 %, or what rounding to two digits allows."""
    model, image = ViT(1000, **fields(name)), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    assert cost.flops(model.apply, variables, image) / 2e9 == pytest.approx(billions, rel=0.02)


def test_parameters_of_deit_b_distilled():
    model, image = ViT(1000, **fields("B/16"), distillation=True), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    assert round(cost.total_bytes(variables) / 4e6, 3) == 87.338
    assert cost.flops(model.apply, variables, image) / 2e9 == pytest.approx(17.6, rel=0.02)


@pytest.mark.parametrize("name", ["vit", "deit"])
def test_it_answers_what_timm_answers(name):
    model = ViT(10, patch_size=8, width=32, num_layers=2, num_heads=4, mlp_width=128, distillation=name == "deit")
    golden.check_answers(name, model)


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


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_a_position_table_is_the_same_at_its_own_size_and_constant_tables_stay_constant(prefix):
    table = jax.random.normal(jax.random.key(0), (prefix + 16, 8))
    np.testing.assert_array_equal(resample_positions(table, (4, 4), prefix), table)
    constant = jnp.ones((prefix + 16, 8))
    for grid in [(2, 2), (7, 3), (4, 9)]:
        resampled = resample_positions(constant, grid, prefix)
        np.testing.assert_allclose(resampled, np.ones((prefix + grid[0] * grid[1], 8)), atol=1e-6)


def test_a_table_without_class_token_serves_a_model_with_one():
    """A table of 196 tokens: the class token's position is 0, the patches' are kept."""
    table = jax.random.normal(jax.random.key(0), (196, 8))
    resampled = resample_positions(table, (14, 14), 1)
    np.testing.assert_array_equal(resampled, np.concatenate([np.zeros((1, 8)), table]))
    with pytest.raises(UserError, match="a position table of 195 tokens is not a square of patches"):
        resample_positions(table[1:], (14, 14), 1)


def test_a_ramp_is_a_ramp_on_another_grid():
    """Interpolation of a linear function is exact away from the border: pixel centres at (i + 1/2) · 4/8 - 1/2."""
    ramp = jnp.broadcast_to(jnp.arange(8.0)[None, :, None], (8, 8, 1)).reshape(64, 1)
    resampled = resample_positions(ramp, (8, 16), 0).reshape(8, 16)
    np.testing.assert_allclose(resampled[0, 4:12], (np.arange(4, 12) + 0.5) / 2 - 0.5, atol=1e-5)


def test_images_of_another_size_and_shape_use_a_resampled_table():
    params = random_params(tiny(), IMAGES)
    images = jax.random.uniform(jax.random.key(2), (2, 16, 12, 3))
    table = resample_positions(params["params"]["position_embedding"], (4, 3), 1)
    expected = tiny().apply({"params": params["params"] | {"position_embedding": table}}, images)
    np.testing.assert_array_equal(tiny().apply(params, images), expected)


def test_attention_pooling_weighs_the_patches():
    """Against numpy: one query over the patches in each head, a projection, and a feed-forward block beside it."""
    model = tiny(pool="attention", num_classes=0)
    params = random_params(model, IMAGES)
    p = jax.tree.map(np.float64, params["params"])
    _, state = model.apply(params, IMAGES, capture_intermediates=True)
    patches = np.float64(state["intermediates"]["encoder"]["__call__"][0])
    a = p["pool_attention"]
    query = np.einsum("qd,dhk->qhk", p["pool_query"], a["query"]["kernel"]) + a["query"]["bias"]
    key, value = (np.einsum("bpd,dhk->bphk", patches, a[n]["kernel"]) + a[n]["bias"] for n in ("key", "value"))
    logits = np.einsum("qhk,bphk->bhqp", query, key) / 2
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    x = np.einsum("bhqp,bphk,hkd->bqd", weights, value, a["out"]["kernel"]) + a["out"]["bias"]
    norm = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    norm = norm * p["pool_norm"]["scale"] + p["pool_norm"]["bias"]
    up, down = p["pool_feed_forward"]["up"], p["pool_feed_forward"]["down"]
    hidden = norm @ up["kernel"] + up["bias"]
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / np.sqrt(2)))
    expected = (x + hidden @ down["kernel"] + down["bias"])[:, 0]
    np.testing.assert_allclose(model.apply(params, IMAGES), expected, atol=1e-5)


def test_registers_layer_scale_and_normed_queries_take_part():
    """Registers are read by no head but change the patches; a factor of 0 leaves the residual stream alone."""
    model = tiny(registers=3, layer_scale=1e-4, qk_norm=True, num_classes=0)
    params = random_params(model, IMAGES)
    changed = {"params": {**params["params"], "registers": -params["params"]["registers"]}}
    before = model.apply(params, IMAGES)
    assert not np.allclose(before, model.apply(changed, IMAGES))
    scaled = model.init(jax.random.key(0), IMAGES)["params"]["encoder"]["layer_0"]
    assert scaled["feed_forward_scale"].tolist() == pytest.approx([1e-4] * 8)
    for name, factor in (("kernel", 2.0), ("bias", 2.0)):  # norms take no notice of the length of keys
        for layer in ("layer_0", "layer_1"):
            attention = params["params"]["encoder"][layer]["self_attention"]
            attention["key"][name] = factor * attention["key"][name]
    np.testing.assert_allclose(model.apply(params, IMAGES), before, atol=1e-4)


def test_distillation_needs_a_class_token():
    with pytest.raises(UserError, match=r"model.distillation needs the class token: set model.pool to 'cls'"):
        tiny(distillation=True, pool="mean").init(jax.random.key(0), IMAGES)
