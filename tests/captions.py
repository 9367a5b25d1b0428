"""A small folder of images with captions, as configs/multimodal/clip_coco.py reads it."""

from pathlib import Path

import numpy as np
from PIL import Image

CAPTIONS = ("a {} dog on a lawn", "a {} cat in a house", "one {} bird", "two {} birds in a tree")
COLOURS = ("red", "green", "blue")


def write_captions(folder: Path) -> str:
    """Twelve photographs with two captions each, and four for validation; gives the folder's name."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for split, first, count in (("train", 0, 12), ("val", 12, 4)):
        lines = ["image\tcaption"]
        for number in range(first, first + count):
            colour = COLOURS[number % 3]
            pixels = random.integers(0, 256, (40, 48, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{number}.jpg")
            lines += [f"{number}.jpg\t{CAPTIONS[(number + turn) % 4].format(colour)}" for turn in range(2)]
        (folder / f"captions_{split}.tsv").write_text("\n".join(lines) + "\n", "utf-8")
    return str(folder)
