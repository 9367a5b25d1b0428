"""UPerNet's parameters by hand, and what it takes; tests/weights compares its answers with transformers'."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import UserError
from research.models.resnet import ResNet
from research.models.swin import Swin, fields
from research.models.unet import UNet
from research.models.upernet import UPerNet
from tests.layers.random_params import random_params
from tests.models.test_contract import variables_of

IMAGES = jax.random.normal(jax.random.key(0), (2, 36, 28, 3))
SWIN = Swin(0, width=8, depths=(2, 1, 1), num_heads=(2, 2, 4), window=3)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_parameters_of_the_published_model():
    """transformers' UPerNet on Swin-T with 150 classes has 59,943,398, among them a second head and an unused norm."""
    model = UPerNet(150, Swin(0, **fields("T"), norm_levels=True))
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    width, levels = 512, (96, 192, 384, 768)
    lateral = sum(level * width + 2 * width for level in levels[:-1])
    pooling = 4 * (768 * width + 2 * width) + 9 * (768 + 4 * width) * width + 2 * width
    smooth, fuse = 3 * (9 * width**2 + 2 * width), 9 * 4 * width**2 + 2 * width
    decoder = lateral + pooling + smooth + fuse + 150 * (width + 1)
    assert count({name: tree for name, tree in params.items() if name != "backbone"}) == decoder
    second_head = 9 * 384 * 256 + 2 * 256 + 150 * (256 + 1)
    assert count(params) + second_head + 2 * 768 == 59_943_398


@pytest.mark.parametrize("backbone", [SWIN, SWIN.clone(norm_levels=True), ResNet(0, (1, 1, 1), False, width=8)])
def test_every_pixel_of_an_image_of_any_size_has_an_answer(backbone):
    model = UPerNet(5, backbone, width=8)
    variables = variables_of(model, IMAGES)
    logits, updates = model.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
    assert logits.shape == (2, 36, 28, 5) and logits.dtype == jnp.float32
    assert {*updates["batch_stats"]} >= {"fuse", "pooled", "pool_3", "lateral_1", "smooth_1"}


class Fixed(nn.Module):
    """Three levels of numbers, to one place of one of which the first pixel is added."""

    level: int
    strides = (4, 8, 16)

    def levels(self, images, *, train=False):
        shapes = [(2, -(-36 // stride), -(-28 // stride), 4) for stride in self.strides]
        found = [jax.random.normal(jax.random.key(0), shape) for shape in shapes]
        found[self.level] = found[self.level].at[:, 0, 0].add(images[0, 0, 0, 0])
        return tuple(found)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_only_the_coarsest_level_is_seen_from_afar(level):
    """What one place holds changes the answer at the other end where that level is pooled."""
    model = UPerNet(5, Fixed(level), width=8)
    variables = variables_of(model, IMAGES)
    answers = [model.apply(variables, images) for images in (IMAGES, IMAGES.at[0, 0, 0, 0].add(3.0))]
    changed = np.abs(answers[0] - answers[1]).max(axis=(0, 3)) > 0
    assert changed[0, 0] and changed[-1, -1] == (level == 2)


def test_levels_of_a_swin_are_normalised_and_merged_as_they_were():
    model = SWIN.clone(norm_levels=True)
    variables = random_params(model, IMAGES, deviation=0.2)
    plain = {name: tree for name, tree in variables["params"].items() if name not in ("stage_0_norm", "stage_1_norm")}
    raw = SWIN.apply({"params": plain}, IMAGES, method="levels")
    for stage, (level, found) in enumerate(zip(raw, model.apply(variables, IMAGES, method="levels"), strict=True)):
        expected = np.float64(level)
        if stage < 2:
            norm = variables["params"][f"stage_{stage}_norm"]
            centred = expected - expected.mean(axis=-1, keepdims=True)
            expected = centred / np.sqrt(expected.var(axis=-1, keepdims=True) + 1e-5) * norm["scale"] + norm["bias"]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_a_backbone_without_levels_is_refused():
    with pytest.raises(UserError, match=r"model\.backbone has no feature levels: use swin, resnet, vit"):
        jax.eval_shape(UPerNet(3, UNet(2, width=2)).init, jax.random.key(0), IMAGES)
