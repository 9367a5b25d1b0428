"""A small folder of images with masks, as configs/vision/membrane.py reads it."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_masks(folder: Path) -> str:
    """Ten images of 20 x 24 pixels with masks of 0 and 255, written once; gives the folder's name."""
    random = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(10):
        mask = np.where(random.random((20, 24)) < 0.3, 0, 255).astype(np.uint8)
        Image.fromarray(mask).save(folder / "labels" / f"{number}.png")
        Image.fromarray(mask // 2 + random.integers(0, 64, mask.shape, np.uint8)).save(
            folder / "images" / f"{number}.png"
        )
    return str(folder)
