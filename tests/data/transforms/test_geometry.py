import itertools

import numpy as np
import pytest
from PIL import Image

from research.data.transforms.geometry import IGNORED, Augmentation, cropped, flipped, moved, resized
from research.data.transforms.policies import EITHER_WAY, changed as operated


def disc(size=32):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return (255 * (np.hypot(x, y) < size / 4)).astype(np.uint8)[..., None]


def changed(image, seed, **fields):
    return Augmentation(**fields)({"image": image}, np.random.default_rng(seed))["image"]


def test_no_augmentation_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    assert (Augmentation()({"image": image}, np.random.default_rng(1))["image"] == image).all()


def test_rotation_is_about_the_centre():
    image = disc()
    rotated = Augmentation(rotate=180.0)({"image": image}, np.random.default_rng(2))["image"]
    assert np.abs(rotated.astype(int) - image).mean() < 12  # a disc in the middle stays where it is


def test_zoom_and_shift_move_mass_as_they_say():
    areas = [changed(disc(), seed, zoom=0.5).sum() / disc().sum() for seed in range(40)]
    assert 0.2 < min(areas) < 0.6 and 1.6 < max(areas) < 2.3  # 0.5^2 to 1.5^2 of the area
    columns = []
    for seed in range(40):
        mass = changed(disc(), seed, shift=0.25)[..., 0].sum(axis=0)
        columns.append((mass * np.arange(32)).sum() / mass.sum() - 15.5)
    assert 5 < max(columns) < 8.2 and -8.2 < min(columns) < -5  # a quarter of 32 either way


def test_flip_happens_in_half_of_the_cases():
    image = np.arange(4, dtype=np.uint8).reshape(1, 4, 1)
    flips = [changed(image, seed, flip=True)[0, 0, 0] == 3 for seed in range(200)]
    assert 70 < sum(flips) < 130
