import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.analysis import cost
from research.errors import UserError
from research.models import swin
from research.models.swin import Block, PatchMerging, Swin, fields
from research.weights.swin import TIMM
from tests.layers.random_params import random_params
from tests.models import golden

IMAGES = jax.random.uniform(jax.random.key(1), (2, 50, 37, 3))
WINDOW, SHIFT = 4, 2


def tiny(**overrides):
    return Swin(**{"num_classes": 5, "width": 8, "depths": (2, 2), "num_heads": (2, 4), "window": WINDOW} | overrides)


@pytest.mark.parametrize(
    ("name", "millions", "published", "billions"),
    [("T", 28.288, 4.5, 4.491), ("S", 49.606, 8.7, 8.741), ("B", 87.768, 15.4, 15.431)],
)
def test_parameters_and_macs_of_the_published_sizes(name, millions, published, billions):
    model, image = Swin(1000, **fields(name)), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    macs = cost.flops(model.apply, variables, image) / 2e9
    assert round(cost.total_bytes(variables["params"]) / 4e6, 3) == millions
    assert macs == pytest.approx(published, rel=0.02)
    assert round(macs, 3) == billions


def test_it_answers_what_timm_answers():
    model = Swin(10, width=16, depths=(2, 2), num_heads=(2, 4), window=4)
    golden.check_answers("swin", model)


def test_masks_and_indices_of_older_weights_are_left_out():
    for name in ("layers.0.blocks.1.attn_mask", "layers.0.blocks.1.attn.relative_position_index"):
        assert TIMM.reason(name) == "masks and indices, which follow from the sizes"


def cells(length, shifted):
    """The part of its axis in which each token attends: by hand, windows that start at multiples of 4, or 2 later."""
    if length <= WINDOW:
        return np.zeros(length, int)
    return (np.arange(length) - (SHIFT if shifted else 0)) // WINDOW


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("grid", [(9, 6), (3, 6), (8, 8), (4, 2)])
def test_a_token_sees_its_window_and_not_the_opposite_edge(grid, shifted):
    """9 x 6 tokens fill up to 12 x 8; 3 rows are one window without shift."""
    block, x = Block(2, 8, WINDOW, shifted), jax.random.normal(jax.random.key(0), (1, *grid, 4))
    variables = random_params(block, x)
    slopes = jax.jit(jax.jacobian(lambda x: block.apply(variables, x)[0].sum(axis=-1)))(x)[:, :, 0]
    sees = (np.asarray(slopes) != 0).any(axis=-1)
    rows, columns = (cells(length, shifted) for length in grid)
    expected = (rows[:, None] == rows)[:, None, :, None] & (columns[:, None] == columns)[None, :, None, :]
    np.testing.assert_array_equal(sees, expected)


def reference_attention(x, params, shifted):
    """Each token's attention on its own, over the padded image; padding is zeros after the norm."""
    height, width, _ = x.shape
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    normed = normed * params["attention_norm"]["scale"] + params["attention_norm"]["bias"]
    normed = np.pad(normed, ((0, -height % WINDOW), (0, -width % WINDOW), (0, 0)))
    attention = params["attention"]
    query, key, value = (
        np.einsum("ijc,chd->ijhd", normed, attention[name]["kernel"]) + attention[name]["bias"]
        for name in ("query", "key", "value")
    )
    rows, columns = (cells(length, shifted) for length in normed.shape[:2])
    out = np.zeros_like(x)
    for i, j in np.ndindex(height, width):
        seen = np.argwhere((rows == rows[i])[:, None] & (columns == columns[j]))
        logits = np.stack([(query[i, j] * key[k, m]).sum(-1) for k, m in seen]) * query.shape[-1] ** -0.5
        logits += np.stack([params["relative_bias"][i - k + WINDOW - 1, j - m + WINDOW - 1] for k, m in seen])
        weights = np.exp(logits) / np.exp(logits).sum(0)
        attended = sum(weight[:, None] * value[k, m] for weight, (k, m) in zip(weights, seen, strict=True))
        out[i, j] = np.einsum("hd,hdc->c", attended, attention["out"]["kernel"]) + attention["out"]["bias"]
    return out


@pytest.mark.parametrize("shifted", [False, True])
def test_attention_is_that_of_each_token_alone_with_padding(shifted):
    block, x = Block(2, 8, WINDOW, shifted), jax.random.normal(jax.random.key(0), (2, 9, 6, 4))
    params = random_params(block, x)["params"]
    params["feed_forward"]["down"] = jax.tree.map(jnp.zeros_like, params["feed_forward"]["down"])
    out = block.apply({"params": params}, x) - x
    params = jax.tree.map(np.asarray, params)
    for image, attended in zip(np.asarray(x), np.asarray(out), strict=True):
        np.testing.assert_allclose(attended, reference_attention(image, params, shifted), atol=1e-5)


def test_merging_takes_squares_and_pads_odd_images():
    x = jax.random.normal(jax.random.key(0), (1, 3, 5, 4))
    variables = random_params(PatchMerging(), x)
    merged = PatchMerging().apply(variables, x)
    assert merged.shape == (1, 2, 3, 8)
    padded = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    np.testing.assert_allclose(merged, PatchMerging().apply(variables, padded), atol=1e-6)
    changed = PatchMerging().apply(variables, x.at[0, 1, 2].add(jnp.arange(4.0))) != merged
    assert np.argwhere(changed.any(axis=-1)).tolist() == [[0, 0, 1]]


def test_images_of_any_size_share_their_parameters():
    """50 x 37 pixels are 13 x 10 patches, 7 x 5 after merging; 9 x 70 are 3 x 18 and 2 x 9."""
    variables = random_params(tiny(), IMAGES)
    logits = jax.jit(tiny().apply)(variables, IMAGES)
    assert logits.shape == (2, 5)
    assert jnp.isfinite(logits).all()
    feature_map = functools.partial(tiny().apply, method="feature_map")
    for height, width, grid in ((50, 37, (7, 5)), (9, 70, (2, 9)), (64, 64, (8, 8)), (3, 3, (1, 1))):
        images = jnp.zeros((1, height, width, 3))
        shapes = jax.eval_shape(tiny().init, jax.random.key(0), images)
        assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, variables)
        assert jax.eval_shape(feature_map, variables, images).shape == (1, *grid, 16)


def test_parameters_have_their_paths():
    params = jax.eval_shape(tiny().init, jax.random.key(0), IMAGES)["params"]
    blocks = {f"stage_{stage}_block_{index}" for stage in (0, 1) for index in (0, 1)}
    assert set(params) == {"patch_embedding", "stage_1_merge", "norm", "head"} | blocks
    assert set(params["patch_embedding"]) == {"projection", "norm"}
    assert set(params["stage_1_merge"]) == {"norm", "reduce"}
    names = {"attention_norm", "attention", "relative_bias", "feed_forward_norm", "feed_forward"}
    assert set(params["stage_0_block_0"]) == names
    assert params["stage_1_block_0"]["feed_forward"]["up"]["kernel"].shape == (16, 64)


def test_without_classes_the_features_come_out():
    variables = random_params(tiny(), IMAGES)
    head = variables["params"].pop("head")
    features = tiny(num_classes=0).apply(variables, IMAGES)
    assert features.shape == (2, 16)
    pooled = tiny().apply(variables, IMAGES, method="feature_map").mean(axis=(1, 2))
    np.testing.assert_allclose(features, pooled, atol=1e-6)
    logits = tiny().apply({"params": variables["params"] | {"head": head}}, IMAGES)
    np.testing.assert_allclose(logits, features @ head["kernel"] + head["bias"], atol=1e-4)


def test_half_precision_parameters_make_half_precision_hidden_states():
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), random_params(tiny(), IMAGES))
    assert tiny().apply(variables, IMAGES).dtype == jnp.float32
    assert tiny().apply(variables, IMAGES, method="feature_map").dtype == jnp.bfloat16


def test_stochastic_depth_acts_in_training_only():
    variables, model = random_params(tiny(), IMAGES), tiny(stochastic_depth=0.9)
    expected, rngs = tiny().apply(variables, IMAGES), {"dropout": jax.random.key(0)}
    np.testing.assert_array_equal(model.apply(variables, IMAGES), expected)
    np.testing.assert_array_equal(tiny().apply(variables, IMAGES, train=True), expected)
    assert not np.allclose(model.apply(variables, IMAGES, train=True, rngs=rngs), expected, atol=1e-2)


def test_stochastic_depth_grows_linearly(monkeypatch):
    rates = []
    monkeypatch.setattr(swin, "drop_branch", lambda branch, rate, rng: rates.append(float(rate)) or branch)
    variables = random_params(tiny(), IMAGES)
    tiny(stochastic_depth=0.3).apply(variables, IMAGES, train=True, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_allclose(rates, np.repeat([0, 0.1, 0.2, 0.3], 2), atol=1e-6)


def test_unknown_sizes_and_uneven_stages_are_refused():
    with pytest.raises(UserError, match="Swin size 'X' is unknown: use one of T, S, B"):
        fields("X")
    with pytest.raises(UserError, match="num_heads has 1 stages, depths 2: give both for every stage"):
        tiny(num_heads=(2,)).init(jax.random.key(0), IMAGES)
