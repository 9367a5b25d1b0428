"""What every model offers, and that it is what research/models/contract.py says."""

import functools
import math

import jax
import numpy as np
import pytest

from research.models import contract
from research.models.mobilenet import MobileNet
from research.models.resnet import ResNet
from research.models.vit import ViT
from tests.layers.random_params import random_params
from tests.models.tiny import MODELS

STAGED = {"Levels", "FeatureMap"}
OFFERS = {
    "bert": {"HiddenStates", "TextEncoder"},
    "captioner": {"States", "Patches", "SpecialTokens"},
    "decoder": {"States"},
    "detr": {"Patches"},
    "efficientformer": {*STAGED, "Heads"},
    "gpt": {"States", "HiddenStates", "TextEncoder", "SeparateTexts"},
    "mae": {"PooledFeatures", "Patches"},
    "mobilenet": STAGED,
    "resnet": STAGED,
    "rnn": {"States"},
    "segformer": set(),
    "segmenter": set(),
    "seq2seq": {"States"},
    "swin": {*STAGED, "Patches"},
    "transunet": {"Patches", "SpecialTokens"},
    "two_towers": {"Patches", "PooledFeatures", "SpecialTokens"},
    "unet": set(),
    "upernet": set(),
    "vit": {"Levels", "Heads", "Patches", "SpecialTokens", "HiddenStates"},
}
KINDS = {name: kind for name, kind in vars(contract).items() if getattr(kind, "_is_protocol", False)}
del KINDS["Protocol"]
STRIDES = {
    "efficientformer": (4, 8, 16, 32),
    "mobilenet": (2, 4, 8, 16, 32),
    "resnet": (4, 8),
    "swin": (4, 8),
    "vit": (8,),
}


def variables_of(model, *inputs):
    """Random ones, whose statistics are possible."""
    variables = random_params(model, *inputs)

    def valid(path, leaf):
        return 2 + leaf**2 if path[-1].key == "mean_square" else leaf

    return jax.tree.map_with_path(valid, variables)


@pytest.mark.parametrize("name", MODELS)
def test_what_models_offer(name):
    model, _ = MODELS[name]
    assert {kind for kind, protocol in KINDS.items() if isinstance(model, protocol)} == OFFERS[name]


@pytest.mark.parametrize("name", STRIDES)
@pytest.mark.parametrize("train", [False, True])
def test_levels_have_their_strides_and_end_in_what_the_head_reads(name, train):
    model, (images,) = MODELS[name]
    assert model.strides == STRIDES[name]
    variables = variables_of(model, images)
    run = functools.partial(model.apply, variables, train=train, mutable=["batch_stats"])
    levels, _ = jax.jit(functools.partial(run, method="levels"))(images)
    assert [level.shape[:3] for level in levels] == [
        (len(images), *(math.ceil(size / stride) for size in images.shape[1:3])) for stride in model.strides
    ]
    if name == "vit":
        return
    last, _ = jax.jit(functools.partial(run, method="feature_map"))(images)
    np.testing.assert_array_equal(last, levels[-1])
    head = jax.tree.map(np.float64, variables["params"]["head"])
    logits = np.float64(last).mean(axis=(1, 2)) @ head["kernel"] + head["bias"]
    if name == "efficientformer":
        second = variables["params"]["head_distillation"]
        logits = (logits + np.float64(last).mean(axis=(1, 2)) @ second["kernel"] + second["bias"]) / 2
    np.testing.assert_allclose(run(images)[0], logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("efficientformer", ["stage_0_block_0", "stage_1_block_0", "stage_2_block_0"]),
        ("mobilenet", ["row_0_block_0", "row_1_block_1", "row_2_block_2", "row_4_block_2"]),
        ("resnet", ["stage_0_block_0"]),
        ("swin", ["stage_0_block_1"]),
    ],
)
def test_a_level_is_the_output_of_the_last_block_at_its_size(name, blocks):
    model, (images,) = MODELS[name]
    variables = variables_of(model, images)
    levels, state = model.apply(variables, images, method="levels", capture_intermediates=True)
    assert len(levels) == len(blocks) + 1
    for level, block in zip(levels, blocks, strict=False):
        np.testing.assert_array_equal(level, state["intermediates"][block]["__call__"][0])


def test_strides_follow_the_fields():
    assert MobileNet(3, "v3").strides == (2, 4, 8, 16, 32)
    assert ResNet(3, depths=(1, 1, 1), bottleneck=False, small_images=True).strides == (1, 2, 4)
    assert ResNet(3, depths=(1, 1), bottleneck=False, stem_level=True).strides == (2, 4, 8)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_a_vits_level_is_its_patches_in_their_places(pool):
    """Without class token, distillation token and registers, row by row, on an image that is no square."""
    model = ViT(
        3, patch_size=8, width=16, num_layers=1, num_heads=2, mlp_width=8, pool=pool, registers=3,
        distillation=pool == "cls",
    )  # fmt: skip
    images = jax.random.normal(jax.random.key(0), (2, 16, 24, 3))
    variables = random_params(model, images)
    (level,), state = model.apply(variables, images, method="levels", capture_intermediates=True)
    tokens = state["intermediates"]["encoder"]["__call__"][0]
    special = 2 if pool == "cls" else 0
    assert level.shape == (2, 2, 3, 16) and tokens.shape == (2, special + 6 + 3, 16) and model.special_tokens == special
    for row, column in np.ndindex(2, 3):
        np.testing.assert_array_equal(level[:, row, column], tokens[:, special + 3 * row + column])


@pytest.mark.parametrize("name", ["gpt", "vit"])
@pytest.mark.parametrize("scan", [False, True])
def test_hidden_states_end_in_the_last_ones(name, scan):
    model, inputs = MODELS[name]
    model = model.clone(scan=scan)
    variables = random_params(model, *inputs)
    states = model.apply(variables, *inputs, method="hidden_states")
    assert len(states) == 2 and not np.allclose(states[0], states[1], atol=1e-2)
    if name == "gpt":
        last, _ = model.apply(variables, *inputs, method="features")
    else:
        (level,) = model.apply(variables, *inputs, method="levels")
        last = np.concatenate([states[1][:, :1], level.reshape(2, 16, -1)], axis=1)
    np.testing.assert_allclose(states[1], last, atol=1e-6)
