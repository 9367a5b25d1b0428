"""A small folder of images with boxes in COCO JSON, as configs/vision/bccd.py reads it."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

KINDS = [{"id": 3, "name": "cell"}, {"id": 7, "name": "plate"}]
"""Ids with holes."""


def write_boxes(folder: Path) -> str:
    """Nine images of 24 x 20 pixels with no, one or two boxes for every split; gives the folder's name."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for split in ("train", "val", "test"):
        images, annotations = [], []
        for number in range(9):
            name = f"{split}_{number}.png"
            Image.fromarray(random.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / "images" / name)
            images.append({"id": 10 * number + 5, "file_name": name, "width": 24, "height": 20})
            for place in range(number % 3):
                box = {"bbox": [2.0 + place, 3, 10, 8], "area": 80, "iscrowd": 0, "id": len(annotations)}
                annotations.append(box | {"image_id": 10 * number + 5, "category_id": KINDS[place]["id"]})
        content = {"images": images, "annotations": annotations, "categories": KINDS}
        (folder / f"instances_{split}.json").write_text(json.dumps(content))
    return str(folder)
