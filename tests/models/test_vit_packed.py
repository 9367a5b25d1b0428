import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.data.packing import PackedImages
from research.errors import UserError
from research.models.vit import ViT
from tests.layers.random_params import random_params

SIZES = [(8, 8), (4, 16), (12, 4), (4, 4), (8, 4)]
RANDOM = np.random.default_rng(0)
EXAMPLES = [{"image": RANDOM.integers(0, 256, (*size, 3), np.uint8), "label": n} for n, size in enumerate(SIZES)]
FIELDS = {"num_classes": 5, "patch_size": 4, "width": 8, "num_layers": 2, "num_heads": 2, "mlp_width": 16}
IMAGES = [jnp.asarray(example["image"] / 255, jnp.float32)[None] for example in EXAMPLES]


def tiny(**overrides):
    return ViT(**FIELDS | {"pool": "mean", "positions": "sincos2d"} | overrides)


MODEL = tiny()
VARIABLES = random_params(MODEL, IMAGES[0])


def logits_by_image(examples, model=MODEL, variables=VARIABLES, row_tokens=8, seed=0):
    """Logits of each image (by its label), from rows that are packed in an order drawn from the seed."""
    dataset = PackedImages(examples, 4, 4, row_tokens, images_per_row=4, seed=seed)
    batch = dataset.batch(np.arange(len(dataset)), np.zeros(len(dataset), int), None)
    patches = jnp.asarray(batch["patches"] / 255, jnp.float32)
    places = (jnp.asarray(batch[name]) for name in ("positions", "segments"))
    logits = model.apply(variables, patches, *places, 4, method="packed")
    assert logits.shape == (len(dataset), 4, 5) and logits.dtype == jnp.float32
    return {int(batch["label"][at]): np.asarray(logits[at]) for at in map(tuple, np.argwhere(batch["label"] >= 0))}


@pytest.mark.parametrize("fields", [{}, {"scan": True}, {"qk_norm": True, "layer_scale": 0.1}])
def test_packed_images_have_the_logits_of_the_plain_model(fields):
    model = tiny(**fields)
    variables = random_params(model, IMAGES[0])
    packed = logits_by_image(EXAMPLES, model, variables)
    for label, image in enumerate(IMAGES):
        np.testing.assert_allclose(packed[label], model.apply(variables, image)[0], atol=1e-5)


def test_order_neighbours_and_padding_change_nothing():
    reference = logits_by_image(EXAMPLES)
    others = [{**example, "image": 255 - example["image"]} for example in EXAMPLES[1:]]
    for packed in (
        logits_by_image(EXAMPLES, seed=5),
        logits_by_image(EXAMPLES, row_tokens=30),
        logits_by_image(EXAMPLES[::-1]),
        logits_by_image([EXAMPLES[0], *others]),
        logits_by_image(EXAMPLES[:1]),
    ):
        np.testing.assert_allclose(packed[0], reference[0], atol=1e-5)


def test_what_padding_holds_has_no_gradient():
    segments = jnp.array([[1, 1, 0, 2, 0]])
    positions = jnp.zeros((1, 5, 2), jnp.int32)
    patches = jax.random.normal(jax.random.key(0), (1, 5, 48))

    def total(patches):
        return MODEL.apply(VARIABLES, patches, positions, segments, 2, method="packed").sum()

    gradient = jnp.abs(jax.grad(total)(patches)).sum(axis=-1)[0]
    assert (gradient[segments[0] > 0] > 0).all() and (gradient[segments[0] == 0] == 0).all()


def test_packing_initialises_the_parameters_of_the_plain_model():
    patches, zeros = jnp.zeros((1, 3, 48)), jnp.zeros((1, 3), jnp.int32)
    places = (jnp.zeros((1, 3, 2), jnp.int32), zeros)
    packed = MODEL.init(jax.random.key(0), patches, *places, 2, method="packed")
    plain = MODEL.init(jax.random.key(0), IMAGES[0])
    jax.tree.map(np.testing.assert_array_equal, packed, plain)


@pytest.mark.parametrize("fields", [{"pool": "cls"}, {"positions": "learned"}, {"registers": 2}])
def test_models_that_cannot_be_packed_say_what_to_set(fields):
    with pytest.raises(UserError, match=r"set model\.pool to 'mean', model\.positions to 'sincos2d' and model\.reg"):
        logits_by_image(EXAMPLES, tiny(**fields), {"params": {}})
