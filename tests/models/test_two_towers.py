"""Two towers: CLIP's published size, vectors of length 1, and the scale that is held at 100."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import UserError
from research.layers.feed_forward import FUNCTIONS
from research.models.bert import BERT
from research.models.decoder import Decoder
from research.models.gpt import GPT
from research.models.two_towers import TwoTowers
from research.models.vit import ViT, fields
from tests.layers.random_params import random_params

IMAGE = ViT(0, patch_size=4, width=8, num_layers=1, num_heads=2, mlp_width=8)
TEXT = GPT(9, 1, 8, 2, max_length=6)
IMAGES = jax.random.normal(jax.random.key(0), (3, 8, 8, 3))
TOKENS = jnp.array([[1, 5, 2, 0, 0], [1, 6, 7, 8, 2], [1, 2, 0, 0, 0]])


def test_clip_has_its_published_parameters():
    """151.277 million for ViT-B/32 with a text tower of width 512 (Radford et al. 2021)."""
    clip = {"activation": "quick_gelu"}
    image = ViT(0, **fields("B/32"), input_norm=True, norm_epsilon=1e-5, **clip)
    text = GPT(49408, 12, 512, 8, max_length=77, **clip)
    inputs = jnp.zeros((1, 224, 224, 3)), jnp.zeros((1, 77), int), jnp.ones((1, 77), bool)
    params = jax.eval_shape(TwoTowers(image, text).init, jax.random.key(0), *inputs)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 151_277_313


def test_quick_gelu():
    x = np.linspace(-4, 4, 9)
    np.testing.assert_allclose(FUNCTIONS["quick_gelu"](jnp.asarray(x)), x / (1 + np.exp(-1.702 * x)), rtol=1e-5)


def test_the_input_norm_stands_before_the_first_layer():
    model = IMAGE.clone(input_norm=True)
    variables = random_params(model, IMAGES)
    assert "bias" not in variables["params"]["patch_embedding"]["projection"]
    _, inside = model.apply(variables, IMAGES, capture_intermediates=True)
    params = jax.tree.map(np.float64, variables["params"])
    (patches,) = np.float64(inside["intermediates"]["patch_embedding"]["__call__"])
    tokens = np.concatenate([np.tile(params["cls_token"], (3, 1, 1)), patches.reshape(3, 4, 8)], axis=1)
    tokens += params["position_embedding"]
    centred = tokens - tokens.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * params["input_norm"]["scale"]
    (found,) = inside["intermediates"]["input_norm"]["__call__"]
    np.testing.assert_allclose(found, expected + params["input_norm"]["bias"], atol=1e-5)


@pytest.mark.parametrize("pool", ["last", "mean", "cls", "max"])
@pytest.mark.parametrize("text", [TEXT, BERT(9, 1, 8, 2, 8, max_length=8)])
def test_logits_are_scaled_cosines_and_padding_changes_nothing(text, pool):
    model = TwoTowers(IMAGE, text, 4, pool, scale=2.0, bias=-3.0)
    variables = random_params(model, IMAGES, TOKENS, TOKENS > 0)
    images = model.apply(variables, IMAGES, method="image_vectors")
    texts = np.stack(
        [model.apply(variables, row[None], row[None] > 0, method="text_vectors")[0] for row in (
            TOKENS[0, :3], TOKENS[1], TOKENS[2, :2])]
    )  # fmt: skip
    for vectors in (images, texts):
        np.testing.assert_allclose(np.linalg.norm(np.float64(vectors), axis=1), 1, rtol=1e-5)
    params = variables["params"]
    scale, bias = np.exp(float(params["log_scale"])), float(params["logit_bias"])
    expected = scale * np.float64(images) @ np.float64(texts).T + bias
    np.testing.assert_allclose(model.apply(variables, IMAGES, TOKENS, TOKENS > 0), expected, rtol=1e-4, atol=1e-4)


def test_the_scale_begins_as_given_and_is_held_at_100_with_a_gradient():
    model = TwoTowers(IMAGE, TEXT, 4, scale=1 / 0.07)
    params = model.init(jax.random.key(0), IMAGES, TOKENS, TOKENS > 0)["params"]
    assert params["log_scale"] == pytest.approx(np.log(1 / 0.07)) and "logit_bias" not in params

    def scale(value):
        changed = {"params": {**params, "log_scale": value}}
        return model.apply(changed, method="scale_and_bias")[0]

    assert scale(jnp.float32(3.0)) == pytest.approx(np.exp(3.0)) and scale(jnp.float32(9.0)) == pytest.approx(100)
    assert jax.grad(scale)(jnp.float32(9.0)) == pytest.approx(100)


def test_a_scale_without_a_limit_is_not_held():
    model = TwoTowers(IMAGE, TEXT, 4, limit=None)
    params = model.init(jax.random.key(0), IMAGES, TOKENS, TOKENS > 0)["params"]
    changed = {"params": {**params, "log_scale": jnp.float32(4.8)}}
    assert model.apply(changed, method="scale_and_bias")[0] == pytest.approx(np.exp(4.8), rel=1e-6)


def test_siglips_vectors():
    """An image's are its features; a text's are a biased projection of its last state, of padding as it may be."""
    both_ways = GPT(9, 1, 8, 2, max_length=6, causal=False, norm_epsilon=1e-6)
    model = TwoTowers(IMAGE.clone(pool="attention"), both_ways, 8, projected="text", read_padding=True)
    variables = random_params(model, IMAGES, TOKENS, TOKENS > 0)
    params = variables["params"]
    assert {*params} == {"image", "text", "text_projection", "log_scale"}
    features = np.float64(model.image.apply({"params": params["image"]}, IMAGES))
    found = model.apply(variables, IMAGES, method="image_vectors")
    np.testing.assert_allclose(found, features / np.linalg.norm(features, axis=1, keepdims=True), rtol=1e-4, atol=1e-5)
    states = np.float64(both_ways.apply({"params": params["text"]}, TOKENS, method="text_states"))
    projection = jax.tree.map(np.float64, params["text_projection"])
    expected = states[:, -1] @ projection["kernel"] + projection["bias"]
    found = model.apply(variables, TOKENS, TOKENS > 0, method="text_vectors")
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-4, atol=1e-5)
    other = model.apply(variables, TOKENS.at[0, 4].set(7), TOKENS > 0, method="text_vectors")
    assert np.abs(other[0] - found[0]).max() > 1e-3


def test_towers_that_do_not_fit_are_sentences():
    inputs = IMAGES, TOKENS, TOKENS > 0
    with pytest.raises(UserError, match=r"model\.image gives 8 numbers and model\.width is 4: set it to 8"):
        TwoTowers(IMAGE, TEXT, 4, projected="text").init(jax.random.key(0), *inputs)
    with pytest.raises(UserError, match=r"model\.image\.num_classes is 3: use 0"):
        TwoTowers(IMAGE.clone(num_classes=3), TEXT).init(jax.random.key(0), *inputs)
    with pytest.raises(UserError, match=r"model\.text Decoder gives no states of a text's tokens: use gpt or bert"):
        TwoTowers(IMAGE, Decoder(9, 1, 8, 2)).init(jax.random.key(0), *inputs)
