import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import UserError
from research.models.detr import DETR, grid_positions
from research.models.resnet import ResNet, fields
from research.models.unet import UNet
from research.models.vit import ViT
from tests.layers.random_params import random_params


class Patches(nn.Module):
    """A backbone in which no pixel meets another of a square of 4."""

    strides = (4,)

    @nn.compact
    def levels(self, images, *, train=False):
        return (nn.Conv(8, (4, 4), strides=4, name="conv")(images),)

    def __call__(self, images):
        return self.levels(images)[-1]


SMALL = {"num_queries": 5, "width": 16, "num_heads": 2, "encoder_layers": 2, "decoder_layers": 3, "mlp_width": 16}
IMAGES = jax.random.normal(jax.random.key(0), (2, 12, 8, 3))


def test_parameters_of_the_paper():
    """41.5 million with a ResNet-50 whose normalisation is frozen and COCO's 91 classes (table 1), by part."""
    model = DETR(91, ResNet(0, **fields("50"), frozen_norm=True))
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    count = {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in params.items()}
    attention, feed_forward = 4 * (256 + 1) * 256, (256 + 1) * 2048 + (2048 + 1) * 256
    assert count["encoder"] == 6 * (attention + feed_forward + 2 * 512)
    assert count["decoder"] == 6 * (2 * attention + feed_forward + 3 * 512) + 512
    assert count["head"] == 257 * 92 and sum(count[f"box_{n}"] for n in range(3)) == 2 * 257 * 256 + 257 * 4
    assert round(sum(count.values()) / 1e6, 1) == 41.5


def test_every_decoder_layer_answers():
    model = DETR(3, Patches(), **SMALL)
    variables = random_params(model, IMAGES)
    logits, boxes = model.apply(variables, IMAGES)
    assert logits.shape == (3, 2, 5, 4) and boxes.shape == (3, 2, 5, 4) and ((boxes > 0) & (boxes < 1)).all()
    shorter = {**variables["params"], "decoder": {**variables["params"]["decoder"]}}
    del shorter["decoder"]["layer_2"]
    two = DETR(3, Patches(), **{**SMALL, "decoder_layers": 2}).apply({"params": shorter}, IMAGES)
    np.testing.assert_allclose(two[0], logits[:2], atol=1e-5)
    np.testing.assert_allclose(two[1], boxes[:2], atol=1e-5)


def test_padding_changes_no_answer():
    """An image alone is answered as in the corner of a larger one, whatever lies beside it."""
    model = DETR(3, Patches(), **SMALL)
    variables = random_params(model, IMAGES)
    alone = model.apply(variables, IMAGES)
    for padding in (0.0, 9.0):
        padded = jnp.full((2, 20, 16, 3), padding).at[:, :12, :8].set(IMAGES)
        answers = model.apply(variables, padded, jnp.array([[12, 8]] * 2))
        for one, other in zip(alone, answers, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    seen = model.apply(variables, padded)[0]
    assert np.abs(seen - alone[0]).max() > 1e-2


def test_positions_are_those_of_the_published_code():
    """Counted from 1 by a cumulative sum over what is not padding, scaled to 2π, sines and cosines in turn."""
    extents = np.array([[3, 2], [2, 4]])
    table, valid = grid_positions(jnp.asarray(extents), (3, 4), 8)
    for image, (rows, columns) in enumerate(extents):
        inside = np.zeros((3, 4))
        inside[:rows, :columns] = 1
        np.testing.assert_array_equal(valid[image].reshape(3, 4), inside > 0)
        y, x = inside.cumsum(axis=0), inside.cumsum(axis=1)
        for row, column in np.ndindex(rows, columns):
            expected = []
            for place, last in ((y[row, column], y[-1, column]), (x[row, column], x[row, -1])):
                angles = [place / last * 2 * math.pi / 10_000 ** (2 * (i // 2) / 4) for i in range(4)]
                expected += [math.sin(a) if i % 2 == 0 else math.cos(a) for i, a in enumerate(angles)]
            np.testing.assert_allclose(table[image].reshape(3, 4, 8)[row, column], expected, atol=1e-5)


def test_queries_are_told_apart_by_their_embeddings_alone():
    model = DETR(3, Patches(), **SMALL)
    variables = random_params(model, IMAGES)
    order = np.array([3, 0, 4, 1, 2])
    moved = {**variables["params"], "query_embedding": variables["params"]["query_embedding"][order]}
    for one, other in zip(model.apply(variables, IMAGES), model.apply({"params": moved}, IMAGES), strict=True):
        np.testing.assert_allclose(one[:, :, order], other, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (DETR(3, UNet(2, width=2, depth=1), **SMALL), "model.backbone has no feature levels: use resnet, vit, swin"),
        (DETR(3, Patches(), **{**SMALL, "width": 18}), "model.width 18 is not a multiple of 4"),
    ],
)
def test_models_that_do_not_fit_are_refused(model, sentence):
    with pytest.raises(UserError, match=sentence):
        jax.eval_shape(model.init, jax.random.key(0), IMAGES)


def test_a_vision_transformer_is_a_backbone():
    model = DETR(3, ViT(0, patch_size=4, width=8, num_layers=1, num_heads=2, mlp_width=8, pool="mean"), **SMALL)
    logits, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), IMAGES)[0]
    assert logits.shape == (3, 2, 5, 4)
