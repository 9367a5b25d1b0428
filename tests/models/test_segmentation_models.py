"""U-Net, Segmenter, SegFormer and TransUNet against formulas in float64 numpy, and counts of parameters by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import UserError
from research.layers.convolution import ConvNorm
from research.models import segformer
from research.models.resnet import ResNet
from research.models.segformer import MixBlock
from research.models.segmenter import Segmenter
from research.models.transunet import TransUNet
from research.models.unet import Block, Enlarge, UNet
from research.models.vit import ViT, fields
from tests.models.test_contract import variables_of


def count(model, *shape):
    variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def test_parameters_of_a_unet():
    """Figure 1: 31.0 million with biases for norms' scales; each convolution by hand."""
    total, channels = 0, 1
    for width in (64, 128, 256, 512, 1024):
        total += 9 * channels * width + 9 * width * width + 4 * width
        channels = width
    for width in (512, 256, 128, 64):
        total += 4 * 2 * width * width + 4 * width  # up-convolution
        total += 9 * 2 * width * width + 9 * width * width + 4 * width
    assert count(UNet(2), 1, 32, 32, 1) == total + 64 * 2 + 2
    assert round(total / 1e6, 1) == 31.0


def test_parameters_of_a_segmenter():
    """Seg-S-Mask/16: the encoder's, two layers of its width, projections, class embeddings, norms."""
    width, classes = 384, 150
    encoder = ViT(0, **fields("S/16"), name="encoder")
    layer = 4 * (width + 1) * width + 4 * width * (2 * width) + 5 * width + 4 * width
    decoder = 2 * layer + 2 * width + (width + 1) * width + 2 * width**2 + classes * width + 2 * classes
    model = Segmenter(classes, ViT(0, **fields("S/16")))
    assert count(model, 1, 64, 64, 3) == count(encoder, 1, 64, 64, 3) + decoder


def small(decoder="mask", **given):
    encoder = ViT(0, patch_size=4, width=8, num_layers=1, num_heads=2, mlp_width=8, pool="cls")
    return Segmenter(3, encoder, decoder, num_layers=1, num_heads=2, **given)


IMAGES = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))


def layer_norm(x, scale, bias, epsilon):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * scale + bias


def test_the_mask_decoder_multiplies_normalised_patches_and_classes():
    """Section 3.2.2, with the output of the decoder's Transformer taken from inside."""
    model = small(width=12, mlp_width=8)
    variables = variables_of(model, IMAGES)
    logits, inside = model.apply(variables, IMAGES, capture_intermediates=True, mutable=["intermediates"])
    x = np.float64(inside["intermediates"]["decoder"]["__call__"][0])
    assert x.shape == (2, 2 * 3 + 3, 12)  # patches, then classes
    params = jax.tree.map(np.float64, variables["params"])
    patches = x[:, :6] @ params["patch_projection"]["kernel"]
    classes = x[:, 6:] @ params["class_projection"]["kernel"]
    patches /= np.linalg.norm(patches, axis=-1, keepdims=True)
    classes /= np.linalg.norm(classes, axis=-1, keepdims=True)
    masks = layer_norm(patches @ classes.swapaxes(1, 2), **params["mask_norm"], epsilon=1e-5).reshape(2, 2, 3, 3)
    assert logits.shape == (2, 8, 12, 3) and logits.dtype == jnp.float32
    np.testing.assert_allclose(logits[:, 2:6, 2:10].mean(axis=(1, 2)), _enlarged(masks)[:, 2:6, 2:10].mean(axis=(1, 2)),
                               rtol=1e-3, atol=1e-4)  # fmt: skip
    np.testing.assert_allclose(logits, _enlarged(masks), rtol=1e-3, atol=1e-3)


def _enlarged(maps, factor=4):
    """Bilinear interpolation between the centres of the patches, by hand."""
    for axis in (1, 2):
        length = maps.shape[axis]
        at = np.clip((np.arange(length * factor) + 0.5) / factor - 0.5, 0, length - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, length - 1)
        shape = [1] * 4
        shape[axis] = -1
        part = (at - low).reshape(shape)
        maps = maps.take(low, axis) * (1 - part) + maps.take(high, axis) * part
    return maps


def test_the_linear_decoder_projects_each_patch():
    model = small("linear")
    variables = variables_of(model, IMAGES)
    level = np.float64(model.encoder.apply({"params": variables["params"]["encoder"]}, IMAGES, method="levels")[0])
    head = jax.tree.map(np.float64, variables["params"]["head"])
    np.testing.assert_allclose(
        model.apply(variables, IMAGES), _enlarged(level @ head["kernel"] + head["bias"]), rtol=1e-3, atol=1e-3
    )


def test_a_unet_joins_every_size_with_its_own():
    """A pixel of the image reaches the answer at its own place past the narrowest part, which is held still here."""
    model = UNet(2, width=2, depth=2)
    images = jnp.zeros((1, 16, 16, 1))
    variables = variables_of(model, images)

    def answer(images, without_bottom):
        params = dict(variables["params"])
        if without_bottom:
            params["enlarge_1"] = jax.tree.map(jnp.zeros_like, params["enlarge_1"])
        return np.asarray(model.apply({**variables, "params": params}, images))[0]

    changed = images.at[0, 1, 1].set(5.0)
    moved = np.abs(answer(changed, True) - answer(images, True)).max(axis=-1) > 0
    assert moved[1, 1] and not moved[:, 14:].any() and not moved[14:].any()  # skips see 3x3 neighbourhoods alone
    everywhere = np.abs(answer(changed, False) - answer(images, False)).max(axis=-1) > 0
    assert everywhere.sum() > moved.sum()


def small_transunet(**given):
    backbone = ResNet(0, depths=(1, 1), bottleneck=False, width=4, stem_level=True)
    encoder = ViT(0, patch_size=1, width=8, num_layers=1, num_heads=2, mlp_width=8, pool="mean")
    return TransUNet(**{"num_classes": 3, "backbone": backbone, "encoder": encoder, "widths": (8, 6, 5, 4), **given})


def test_parameters_of_a_transunet():
    """R50-ViT-B/16 with 9 classes: what the authors' code counts for images of 224 x 224."""
    backbone = ResNet(0, depths=(3, 4, 9), bottleneck=True, stem_level=True)
    model = TransUNet(9, backbone, ViT(0, **fields("B/16") | {"patch_size": 1, "pool": "mean"}))
    assert count(model, 1, 224, 224, 3) == 105_277_081


def test_a_transunet_joins_every_doubling_with_the_level_of_its_size():
    """Figure 1, step by step, from the levels that the backbone gives and the tokens that the encoder makes."""
    model, images = small_transunet(), jax.random.normal(jax.random.key(0), (2, 16, 24, 1))
    variables = variables_of(model, images)
    of = {name: {kind: tree[name] for kind, tree in variables.items() if name in tree} for name in variables["params"]}
    levels = model.backbone.apply(of["backbone"], images, method="levels")
    assert [level.shape[1:] for level in levels] == [(8, 12, 4), (4, 6, 4), (2, 3, 8)]
    tokens = model.encoder.apply(of["encoder"], levels[2], method="hidden_states")[-1]
    x = ConvNorm(8, 3).apply(of["widen"], tokens.reshape(2, 2, 3, 8))
    x = jnp.maximum(x, 0)
    for step, (channels, skip) in enumerate(((6, levels[1]), (5, levels[0]), (4, None))):
        x = jnp.asarray(_enlarged(np.float64(x), 2), jnp.float32)
        x = Block(channels).apply(of[f"decoder_{step}"], x if skip is None else jnp.concatenate([x, skip], axis=-1))
    head = jax.tree.map(np.float64, variables["params"]["head"])
    padded = np.pad(np.float64(x), [(0, 0), (1, 1), (1, 1), (0, 0)])
    logits = sum(padded[:, i : i + 16, j : j + 24] @ head["kernel"][i, j] for i, j in np.ndindex(3, 3)) + head["bias"]
    found = model.apply(variables, images)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, logits, rtol=1e-3, atol=1e-3)


def test_a_transunets_attention_is_over_squares_of_the_last_level():
    assert small_transunet().patch_size == 8 and small_transunet().special_tokens == 0


def test_the_up_convolution_has_a_projection_for_each_corner():
    x = jax.random.normal(jax.random.key(1), (1, 2, 3, 4))
    variables = variables_of(Enlarge(5), x)
    found = Enlarge(5).apply(variables, x)
    kernel, bias = (np.float64(variables["params"]["conv"][name]) for name in ("kernel", "bias"))
    for row, column in np.ndindex(4, 6):
        corner = row % 2, column % 2
        wanted = np.float64(x[0, row // 2, column // 2]) @ kernel[:, *corner] + bias[corner]
        np.testing.assert_allclose(found[0, row, column], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (
            UNet(2, width=2, depth=3),
            r"an image of 8 x 12 pixels cannot be halved model\.depth 3 times: use multiples of 8",
        ),
        (
            Segmenter(2, ViT(0, **fields("Ti/4"))),
            r"model\.decoder 'mask' normalises over the classes, and 2 are too few",
        ),
        (Segmenter(3, UNet(2, width=2)), r"model\.encoder has no feature levels: use vit, swin, resnet"),
        (small_transunet(), r"an image of 8 x 12 pixels does not suit: use multiples of 8"),
        (
            small_transunet(widths=(8, 4)),
            r"model\.widths has 2 entries and the encoder's map is 8 times smaller than the image: give one entry",
        ),
        (small_transunet(backbone=UNet(2, width=2)), r"model\.backbone has no feature levels: use resnet, vit"),
    ],
)
def test_models_that_do_not_fit_are_refused(model, sentence):
    with pytest.raises(UserError, match=sentence):
        jax.eval_shape(model.init, jax.random.key(0), IMAGES)


def attended(x, memory, params, heads):
    """Attention by its formula: x [tokens, width], memory [keys, width]."""
    project = {n: np.einsum("tw,whs->ths", x if n == "query" else memory, params[n]["kernel"]) + params[n]["bias"]
               for n in ("query", "key", "value")}  # fmt: skip
    scores = np.einsum("qhs,khs->hqk", project["query"], project["key"]) / np.sqrt(x.shape[-1] // heads)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    values = np.einsum("hqk,khs->qhs", weights, project["value"])
    return np.einsum("qhs,hsw->qw", values, params["out"]["kernel"]) + params["out"]["bias"]


def test_a_segformer_block_shrinks_keys_and_mixes_neighbours():
    """Equations 1 to 3, token by token."""
    x = jax.random.normal(jax.random.key(2), (1, 4, 6, 8))
    variables = variables_of(MixBlock(2, 2, 2), x)
    params = jax.tree.map(np.float64, variables["params"])
    image = np.float64(x)[0]
    normed = layer_norm(image, **params["attention_norm"], epsilon=1e-6)
    squares = np.array([[normed[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].ravel() for j in range(3)] for i in range(2)])
    small = squares @ params["reduce"]["kernel"] + params["reduce"]["bias"]
    small = layer_norm(small, **params["reduce_norm"], epsilon=1e-6).reshape(6, 8)
    image = image + attended(normed.reshape(24, 8), small, params["attention"], 2).reshape(image.shape)
    hidden = layer_norm(image, **params["feed_forward_norm"], epsilon=1e-6)
    hidden = hidden @ params["up"]["kernel"] + params["up"]["bias"]
    padded = np.pad(hidden, [(1, 1), (1, 1), (0, 0)])
    mixed = sum(
        padded[i : i + 4, j : j + 6] * params["conv"]["kernel"][i, j, 0] for i, j in np.ndindex(3, 3)
    ) + params["conv"]["bias"]  # fmt: skip
    active = mixed * 0.5 * (1 + np.vectorize(math.erf)(mixed / math.sqrt(2)))
    image = image + active @ params["down"]["kernel"] + params["down"]["bias"]
    np.testing.assert_allclose(MixBlock(2, 2, 2).apply(variables, x)[0], image, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("size", "millions"), [("B0", 3.753), ("B1", None), ("B2", None)])
def test_parameters_of_a_segformer(size, millions):
    """Of every part by hand; B0 with 150 classes has 3.753 million in the reference implementation."""
    widths, depths, decoder = (segformer.SIZES[size][name] for name in ("widths", "depths", "decoder_width"))
    total, channels = 0, 3
    for stage, (width, depth, reduction) in enumerate(zip(widths, depths, (8, 4, 2, 1), strict=True)):
        total += ((3 if stage else 7) ** 2 * channels + 1) * width + 2 * width
        block = 4 * (width + 1) * width + 4 * width + (width + 1) * 4 * width + 10 * 4 * width + (4 * width + 1) * width
        if reduction > 1:
            block += (reduction**2 * width + 1) * width + 2 * width
        total += depth * block + 2 * width + (width + 1) * decoder
        channels = width
    total += 4 * decoder**2 + 2 * decoder + (decoder + 1) * 150
    assert count(segformer.SegFormer(150, **segformer.fields(size)), 1, 64, 64, 3) == total
    assert millions is None or round(total / 1e6, 3) == millions


def test_later_blocks_of_a_segformer_are_left_out_more_often():
    """The rate grows from 0, so that what is left out depends on the key; without a rate nothing does."""
    size = {"widths": (8, 8, 8, 8), "depths": (1, 1, 1, 1), "decoder_width": 8, "num_heads": (1, 1, 1, 1)}
    images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))

    def answers(key, **fields):
        model = segformer.SegFormer(2, **size, dropout=0.0, **fields)
        variables = variables_of(model, images)
        rngs = {"dropout": jax.random.key(key)}
        return model.apply(variables, images, train=True, rngs=rngs, mutable=["batch_stats"])[0]

    np.testing.assert_array_equal(answers(1, stochastic_depth=0.0), answers(2, stochastic_depth=0.0))
    assert not np.allclose(answers(1, stochastic_depth=0.9), answers(2, stochastic_depth=0.9))


def test_a_segformer_answers_images_of_odd_sizes():
    model = segformer.SegFormer(2, (4,) * 4, (1,) * 4, 4, (1,) * 4)
    images = jnp.zeros((1, 37, 50, 1))
    assert jax.eval_shape(model.init_with_output, jax.random.key(0), images)[0].shape == (1, 37, 50, 2)
