import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import UserError
from research.tasks.masked_images import MaskedImages, to_patches

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), np.uint8)
EXAMPLES = [{"image": image, "label": 0} for image in IMAGES]


def batch_of(task, epoch=0):
    dataset = task.rows(EXAMPLES, train=True, seed=3)
    return dataset.batch(np.arange(3), np.full(3, epoch), None) | {"weight": np.array([1, 1, 0], np.float32)}


def test_patches_lie_row_by_row():
    patches = to_patches(jnp.asarray(IMAGES), 2)
    assert patches.shape == (3, 6, 12)
    np.testing.assert_array_equal(patches[1, 4].reshape(2, 2, 3), IMAGES[1, 2:4, 2:4])


@pytest.mark.parametrize("normalise", [True, False])
def test_only_hidden_patches_count(normalise):
    """Against float64 numpy, with noise painted everywhere; the image of weight 0 does not count."""
    task = MaskedImages(2, masked=0.5, normalise=normalise)
    batch, painted = batch_of(task), np.random.default_rng(1).normal(size=(3, 6, 12))
    metrics, _ = task.loss(lambda images, order: (jnp.float32(painted), {}), batch)
    expected = 0.0
    for row in range(2):
        errors = []
        for number in batch["order"][row][3:]:
            top, left = 2 * (number // 3), 2 * (number % 3)
            patch = ((IMAGES[row, top : top + 2, left : left + 2] / 255 - 0.5) / 0.5).reshape(-1)
            if normalise:
                patch = (patch - patch.mean()) / np.sqrt(patch.var() + 1e-6)
            errors.append(((painted[row, number] - patch) ** 2).mean())
        expected += np.mean(errors)
    assert float(metrics["loss"][0]) == pytest.approx(expected, rel=1e-4) and metrics["loss"][1] == 2


def test_other_patches_are_hidden_in_every_epoch():
    task = MaskedImages(2)
    first, again, later = (batch_of(task, epoch)["order"] for epoch in (0, 0, 1))
    assert first.tolist() == again.tolist() != later.tolist()
    assert (np.sort(first) == np.arange(6)).all()


def test_patches_must_fit():
    with pytest.raises(UserError, match=r"task\.patch_size 5 does not divide images of 4 x 6 pixels"):
        batch_of(MaskedImages(5))
