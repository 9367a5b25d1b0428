import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import UserError
from research.models.mae import MAE
from research.models.vit import ViT

TINY = {"patch_size": 2, "width": 16, "num_layers": 1, "num_heads": 2, "mlp_width": 32}
MODEL = MAE(**TINY, decoder_width=8, decoder_layers=1, decoder_heads=2)
IMAGES = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
ORDER = jnp.array([np.random.default_rng(row).permutation(16) for row in range(2)])


@pytest.fixture(scope="module")
def variables():
    return MODEL.init(jax.random.key(1), IMAGES, ORDER)


def test_published_size():
    """111.66 M trainable parameters: ViT-B/16 without a head, with the decoder of 8 blocks of width 512."""
    image, order = jnp.zeros((1, 224, 224, 3)), jnp.zeros((1, 196), int)
    params = jax.eval_shape(MAE().init, jax.random.key(0), image, order)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6 == pytest.approx(111.66, abs=0.005)


def test_hidden_patches_are_not_seen(variables):
    """Other pixels in the hidden patches change nothing, in a shown one they do."""
    before = MODEL.apply(variables, IMAGES, ORDER)
    assert before.shape == (2, 16, 12)
    for position, same in ((4, True), (15, True), (0, False), (3, False)):  # a quarter of 16 patches is shown
        row, column = divmod(int(ORDER[0, position]), 4)
        changed = IMAGES.at[0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].add(1.0)
        after = MODEL.apply(variables, changed, ORDER)
        assert bool(jnp.allclose(before[0], after[0], atol=1e-6)) is same
        np.testing.assert_allclose(before[1], after[1], atol=1e-6)


def test_the_order_among_shown_and_among_hidden_patches_does_not_matter(variables):
    reordered = jnp.concatenate([ORDER[:, 3::-1], ORDER[:, :3:-1]], axis=1)
    assert (reordered != ORDER).all(axis=1).any()
    before, after = (MODEL.apply(variables, IMAGES, order) for order in (ORDER, reordered))
    np.testing.assert_allclose(before, after, atol=1e-5)


def test_a_classifier_can_start_from_the_encoder(variables):
    """The ViT's pooled features with these parameters are the encoder's."""
    vit = ViT(0, **TINY, pool="cls", positions="sincos2d")
    wanted = jax.eval_shape(vit.init, jax.random.key(0), IMAGES)["params"]
    params = {name: variables["params"][name] for name in wanted}
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, wanted)

    def encoded(model, images):
        return model.encoder(model._with_cls(model._embedded(images)[0]))

    tokens = MODEL.apply(variables, IMAGES, method=encoded)
    np.testing.assert_allclose(vit.apply({"params": params}, IMAGES), tokens[:, 0], atol=1e-5)
    pooled = MODEL.apply(variables, IMAGES, method="pooled_features")
    np.testing.assert_allclose(pooled, tokens[:, 1:].mean(axis=1), atol=1e-5)


@pytest.mark.parametrize("masked", [0.0, 0.99])
def test_something_must_be_shown_and_something_hidden(masked):
    with pytest.raises(UserError, match=r"of 16 patches: use another share"):
        MODEL.clone(masked=masked).init(jax.random.key(0), IMAGES, ORDER)
