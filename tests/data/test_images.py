import io

import numpy as np
import pytest
from PIL import Image

from research.data.image_files import decode_image
from research.data.images import LabelledImages
from research.data.transforms.geometry import Augmentation
from research.errors import UserError


def disc(size=32):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return (255 * (np.hypot(x, y) < size / 4)).astype(np.uint8)[..., None]


def test_augmentation_is_a_function_of_seed_epoch_and_index():
    examples = [{"image": disc(), "label": number} for number in range(4)]
    images = LabelledImages(examples, Augmentation(rotate=20, shift=0.2, zoom=0.2), seed=0)
    one = images.batch(np.array([2, 1]), np.array([5, 5]), None)
    other = images.batch(np.array([1, 2]), np.array([5, 5]), None)
    assert (one["image"] == other["image"][::-1]).all() and one["label"].tolist() == [2, 1]
    assert (one["image"][0] != images.batch(np.array([2]), np.array([6]), None)["image"][0]).any()


def test_mixtures_are_a_function_of_seed_epoch_and_index():
    examples = [{"image": disc(16), "label": number} for number in range(300)]
    both = LabelledImages(examples, Augmentation(), seed=0, mixup=0.2, cutmix=1.0)
    rows, epochs = np.arange(300), np.full(300, 3)
    batch, backwards = both.batch(rows, epochs, None), both.batch(rows[::-1], epochs, None)
    for name in ("mix", "box"):
        assert (batch[name] == backwards[name][::-1]).all()
        assert (batch[name] != both.batch(rows, epochs + 1, None)[name]).any()
    top, left, bottom, right = batch["box"].T
    areas = (bottom - top) * (right - left)
    assert batch["box"].dtype == np.int32 and batch["mix"].dtype == np.float32
    np.testing.assert_allclose(batch["mix"][areas > 0], 1 - areas[areas > 0] / 256, rtol=1e-6)
    assert 110 < (areas > 0).sum() < 190  # half of the images, but for boxes of no pixel
    cut = LabelledImages(examples, Augmentation(), seed=0, cutmix=1.0).batch(rows, epochs, None)
    top, left, bottom, right = cut["box"].T
    np.testing.assert_allclose(cut["mix"], 1 - (bottom - top) * (right - left) / 256, rtol=1e-6)
    assert "box" not in LabelledImages(examples, Augmentation(), seed=0, mixup=0.2).batch(rows, epochs, None)


def test_images_of_different_shapes_are_refused():
    examples = [{"image": np.zeros((4, side, 1), np.uint8), "label": 0} for side in (4, 5)]
    with pytest.raises(UserError, match=r"set data\.size"):
        LabelledImages(examples, None, 0).batch(np.array([0, 1]), np.zeros(2), None)


def test_decode_resizes_and_converts():
    buffer = io.BytesIO()
    Image.new("RGBA", (6, 4), (255, 0, 0, 255)).save(buffer, "PNG")
    pixels = decode_image(buffer.getvalue(), "red.png", (2, 3), 3)
    assert pixels.shape == (2, 3, 3) and (pixels == [255, 0, 0]).all()
    assert decode_image(buffer.getvalue(), "red.png", None, 1).shape == (4, 6, 1)
    with pytest.raises(UserError, match=r"red\.png cannot be read"):
        decode_image(buffer.getvalue()[:40], "red.png", None, 3)
