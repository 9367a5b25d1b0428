import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.analysis import cost
from research.analysis.attention import weights_of
from research.errors import UserError
from research.layers import transformer
from research.layers.convolution import fold
from research.models import efficientformer
from research.models.efficientformer import AttentionBlock, EfficientFormer, fields, pool
from research.weights.efficientformer import timm
from research.weights.table import Table
from tests.layers.random_params import random_params
from tests.models import golden

IMAGES = jax.random.uniform(jax.random.key(1), (2, 64, 64, 3))
LAST = {"depths": (1, 1, 1, 3), "num_attention": 1}


def tiny(**overrides):
    """A last stage of 2 x 2 tokens at 64 pixels: a block of pooling, then one of attention."""
    settings = {"num_classes": 5, "depths": (1, 1, 1, 2), "widths": (4, 8, 8, 8), "num_attention": 1, "resolution": 2}
    return EfficientFormer(**settings | overrides)


@functools.cache
def tiny_variables():
    def valid(path, leaf):
        return 2 + jnp.square(leaf) if path[-1].key == "mean_square" else leaf

    return jax.tree.map_with_path(valid, random_params(tiny(), IMAGES))


def apply(model, images=IMAGES, variables=None, **options):
    return model.apply(variables or tiny_variables(), images, **options)


@pytest.mark.parametrize(
    ("name", "millions", "published", "billions"),
    [("L1", 12.290, 1.3, 1.291), ("L3", 31.406, 3.9, 3.907), ("L7", 82.229, 10.2, 10.119)],
)
def test_parameters_and_macs_of_the_published_sizes(name, millions, published, billions):
    """12.3, 31.3 and 82.1 million and the published MACs are of table 1 in the paper; the exact numbers are timm's."""
    model, image = EfficientFormer(1000, **fields(name)), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    macs = cost.flops(model.apply, variables, image) / 2e9
    assert round(cost.total_bytes(variables["params"]) / 4e6, 3) == millions
    assert macs == pytest.approx(published, rel=0.02)
    assert round(macs, 3) == billions


def test_it_answers_what_timm_answers_also_folded():
    model = EfficientFormer(10, widths=(4, 8, 8, 8), **LAST)
    variables, images, expected = golden.check_answers("efficientformer", model)
    folded = fold(variables)
    shapes = jax.eval_shape(model.clone(folded=True).init, jax.random.key(0), images)
    assert jax.tree.structure(folded) == jax.tree.structure(shapes)
    np.testing.assert_allclose(jax.jit(model.clone(folded=True).apply)(folded, images), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("stages.2.blocks.3.ls1.gamma", "stage_2_block_3/pooling_scale"),
        ("stages.3.blocks.0.ls1.gamma", "stage_3_block_0/pooling_scale"),
        ("stages.3.blocks.2.ls1.gamma", "stage_3_block_1/self_attention_scale"),
        ("stages.3.blocks.4.ls2.gamma", "stage_3_block_3/feed_forward_scale"),
    ],
)
def test_flattening_is_no_block_of_ours(name, ours):
    """Of four blocks in the last stage the last three are attention: timm's number 1 flattens."""
    table = timm(EfficientFormer(3, depths=(1, 1, 4, 4), widths=(4,) * 4, num_attention=3))
    assert names_of(table, ours) == [name]


def names_of(table, ours):
    """The names of our path among the lines of a table, one model's other paths left out."""
    lines = [line for line in table.lines if re.fullmatch(line.ours[0].replace("{}", r"\d+"), ours)]
    return [entry.theirs[0] for entry in Table(tuple(lines)).entries({ours: (4,)})]


def test_a_last_stage_without_pooling_or_attention_has_its_numbers():
    for number, num_attention, kind in (("1", 2, "self_attention"), ("0", 0, "pooling")):
        table = timm(EfficientFormer(3, depths=(1, 2), widths=(4, 4), num_attention=num_attention))
        assert names_of(table, f"stage_1_block_0/{kind}_scale") == [f"stages.1.blocks.{number}.ls1.gamma"]


def test_indices_of_biases_are_left_out():
    table = timm(EfficientFormer(3, widths=(4, 8, 8, 8), **LAST))
    assert table.reason("stages.3.blocks.3.token_mixer.attention_bias_idxs") == "indices, which follow from the grid"


def test_pooling_averages_only_the_pixels_of_the_image():
    x = np.random.default_rng(0).normal(size=(2, 4, 3, 5)).astype(np.float32)
    expected = np.zeros_like(x)
    for i, j in np.ndindex(4, 3):
        neighbours = x[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
        expected[:, i, j] = neighbours.mean(axis=(1, 2)) - x[:, i, j]
    np.testing.assert_allclose(pool(jnp.asarray(x)), expected, atol=1e-6)
    np.testing.assert_allclose(pool(jnp.full((1, 3, 3, 1), 7.0)), 0, atol=1e-6)
    assert pool(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16


def test_biases_depend_on_the_distances_in_rows_and_columns():
    """Weights of attention whose queries are zero are those of the biases alone."""
    block, x = AttentionBlock(2, 8, norm="pre", resolution=3), jax.random.normal(jax.random.key(0), (1, 9, 4))
    params = random_params(block, x)["params"]
    params["self_attention"]["query"] = jax.tree.map(jnp.zeros_like, params["self_attention"]["query"])
    _, state = block.apply({"params": params}, x, mutable="attention")
    weights = weights_of(state["attention"]["self_attention"]["inputs"][0])
    table = np.asarray(params["relative_bias"])
    logits = np.zeros((2, 9, 9))
    for query, key in np.ndindex(9, 9):
        logits[:, query, key] = table[abs(query // 3 - key // 3), abs(query % 3 - key % 3)]
    expected = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(weights[0], expected, atol=1e-6)


def test_parameters_have_their_paths():
    variables = tiny_variables()
    params = variables["params"]
    blocks = {f"stage_{stage}_block_0" for stage in range(4)} | {"stage_3_block_1"}
    embeddings = {f"stage_{stage}_embedding" for stage in (1, 2, 3)}
    assert set(params) == {"stem_0", "stem_1", "norm", "head", "head_distillation"} | blocks | embeddings
    assert set(params["stage_3_block_0"]) == {"pooling_scale", "up", "down", "feed_forward_scale"}
    attention = {f"self_attention{suffix}" for suffix in ("", "_norm", "_scale")} | {"relative_bias"}
    feed_forward = {f"feed_forward{suffix}" for suffix in ("", "_norm", "_scale")}
    assert set(params["stage_3_block_1"]) == attention | feed_forward
    assert params["stage_3_block_1"]["relative_bias"].shape == (2, 2, 8)
    assert params["stage_3_block_1"]["self_attention"]["query"]["kernel"].shape == (8, 8, 32)
    assert params["stage_3_block_1"]["self_attention"]["value"]["kernel"].shape == (8, 8, 128)
    assert params["stage_0_block_0"]["up"]["conv"]["kernel"].shape == (1, 1, 4, 16)
    for layer in ("stem_0", "stage_1_embedding"):
        assert set(params[layer]) == {"conv", "norm"}
        assert set(params[layer]["conv"]) == {"kernel", "bias"}
        assert set(variables["batch_stats"][layer]["norm"]) == {"mean", "mean_square"}


def test_layer_scale_starts_small_on_every_branch():
    model = tiny(depths=(1, 2), widths=(4, 8), resolution=8)
    params = jax.jit(model.init)(jax.random.key(0), IMAGES)["params"]
    scales = {
        (block, name): leaf for block, part in params.items() for name, leaf in part.items() if name.endswith("_scale")
    }
    assert len(scales) == 6
    for scale in scales.values():
        np.testing.assert_allclose(scale, 1e-5)


@pytest.mark.parametrize("train", [False, True])
def test_the_answer_is_the_mean_of_all_heads(train):
    options = {"train": train, "mutable": "batch_stats"}
    (logits, distilled), _ = apply(tiny(), method="all_heads", **options)
    assert not np.allclose(logits, distilled, atol=1e-2)
    answer, _ = apply(tiny(), **options)
    np.testing.assert_allclose(answer, (logits + distilled) / 2, atol=1e-5)


def test_without_distillation_there_is_one_head():
    variables, model = tiny_variables(), tiny(distillation=False)
    params = {name: part for name, part in variables["params"].items() if name != "head_distillation"}
    variables = variables | {"params": params}
    assert set(jax.eval_shape(model.init, jax.random.key(0), IMAGES)["params"]) == set(params)
    (logits,) = apply(model, variables=variables, method="all_heads")
    np.testing.assert_array_equal(apply(model, variables=variables), logits)
    np.testing.assert_allclose(logits, apply(tiny(), method="all_heads")[0], atol=1e-5)


def test_without_classes_the_features_come_out():
    features = apply(tiny(num_classes=0))
    feature_map = apply(tiny(), method="feature_map")
    assert feature_map.shape == (2, 2, 2, 8)
    np.testing.assert_allclose(features, feature_map.mean(axis=(1, 2)), atol=1e-6)
    head = tiny_variables()["params"]["head"]
    logits = features @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(apply(tiny(), method="all_heads")[0], logits, atol=1e-4)
    shapes = jax.eval_shape(tiny(num_classes=0).init, jax.random.key(0), IMAGES)
    assert not {"head", "head_distillation"} & set(shapes["params"])


def test_half_precision_parameters_make_half_precision_hidden_states():
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tiny_variables())
    assert apply(tiny(), variables=variables).dtype == jnp.float32
    assert apply(tiny(), variables=variables, method="feature_map").dtype == jnp.bfloat16


def test_stochastic_depth_acts_in_training_only():
    model, rngs = tiny(stochastic_depth=0.9), {"dropout": jax.random.key(0)}
    np.testing.assert_array_equal(apply(model), apply(tiny()))
    expected, _ = apply(tiny(), train=True, mutable="batch_stats")
    dropped, _ = apply(model, train=True, mutable="batch_stats", rngs=rngs)
    assert not np.allclose(dropped, expected, atol=1e-2)


def test_stochastic_depth_grows_linearly(monkeypatch):
    rates = []
    for module in (efficientformer, transformer):
        monkeypatch.setattr(module, "drop_branch", lambda branch, rate, rng: rates.append(float(rate)) or branch)
    options = {"train": True, "mutable": "batch_stats", "rngs": {"dropout": jax.random.key(0)}}
    apply(tiny(stochastic_depth=0.4), **options)
    np.testing.assert_allclose(rates, np.repeat([0, 0.1, 0.2, 0.3, 0.4], 2), atol=1e-6)


@pytest.mark.parametrize(("height", "width", "grid"), [(96, 96, "3 x 3"), (64, 96, "2 x 3"), (32, 32, "1 x 1")])
def test_attention_is_bound_to_one_image_size(height, width, grid):
    message = (
        f"an image of {height} x {width} pixels makes {grid} tokens, but attention has biases for 2 x 2: "
        "use images of 64 x 64 pixels"
    )
    with pytest.raises(UserError, match=message):
        jax.eval_shape(tiny().init, jax.random.key(0), jnp.zeros((1, height, width, 3)))


def test_without_attention_any_image_does():
    model, images = tiny(num_attention=0), jnp.zeros((1, 70, 40, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    feature_map = functools.partial(model.apply, method="feature_map")
    assert jax.eval_shape(feature_map, variables, images).shape == (1, 3, 2, 8)


def test_unknown_sizes_and_stages_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="EfficientFormer size 'L2' is unknown: use one of L1, L3, L7"):
        fields("L2")
    with pytest.raises(UserError, match="widths has 1 stages, depths 4: give both for every one"):
        tiny(widths=(4,)).init(jax.random.key(0), IMAGES)
    with pytest.raises(UserError, match="num_attention 3 does not fit a last stage of 2 blocks: use 0 to 2"):
        tiny(num_attention=3).init(jax.random.key(0), IMAGES)
