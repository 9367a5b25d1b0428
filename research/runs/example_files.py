"""The examples of a source of images as files: PNG images and masks, boxes and captions as COCO's JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from research.errors import UserError
from research.files import replacing, write_json


def write_examples(source: Any, classes: Sequence[str], folder: Path) -> dict[str, int]:
    """Writes every split into a new folder; gives the number of examples of each.

    An example has `image`, uint8 [height, width, channels], and may have `boxes`, [n, 4], with `objects`, [n], numbers
    of `classes`, `mask`, [height, width], and `caption`. They become `images/SPLIT/0.png`, `masks/SPLIT/0.png`,
    `instances_SPLIT.json` and `captions_SPLIT.json`; the sources `coco`, `image_masks` and `captions` read them.

    Raises UserError for a folder that is not empty, and for examples without images.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--output={folder} is there already: give a new folder")
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    counts = {}
    for split in source.splits:
        examples = source.examples(split)
        images, boxes, captions, boxed = [], [], [], False
        for index in range(len(examples)):
            example = examples[index]
            if "image" not in example:
                raise UserError("the config's data have no images: give one of images, such as detr_scenes.py")
            name = f"{split}/{index}.png"
            _write(example["image"], folder / "images" / name)
            if "mask" in example:
                _write(example["mask"][..., None], folder / "masks" / name)
            height, width = example["image"].shape[:2]
            images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
            boxed |= "boxes" in example
            for box in _annotations(example):
                boxes.append({"id": len(boxes) + 1, "image_id": index + 1, **box})
            if "caption" in example:
                captions.append({"id": index + 1, "image_id": index + 1, "caption": example["caption"]})
        if boxed:
            content = {"images": images, "annotations": boxes, "categories": categories}
            write_json(folder / f"instances_{split}.json", content)
        if captions:
            write_json(folder / f"captions_{split}.json", {"images": images, "annotations": captions})
        counts[split] = len(examples)
    return counts


def _annotations(example: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The boxes of an example as COCO writes them; areas are those of `instances`, where there are such masks."""
    if "boxes" not in example:
        return []
    sides = np.asarray(example["boxes"], np.float64)
    sides = np.concatenate([sides[:, :2], sides[:, 2:] - sides[:, :2]], axis=1)
    areas = example.get("areas", sides[:, 2] * sides[:, 3])
    if "instances" in example:
        areas = np.bincount(example["instances"].ravel(), minlength=len(sides) + 1)[1:]
    crowd = example.get("crowd", np.zeros(len(sides), bool))
    return [
        {"bbox": box, "area": float(area), "iscrowd": int(many), "category_id": int(number) + 1}
        for box, area, many, number in zip(sides.tolist(), areas, crowd, example["objects"], strict=True)
    ]


def _write(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
