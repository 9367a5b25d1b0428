"""A small folder of images with captions, as configs/multimodal/clip_coco.py reads it, and its tar files."""

import csv
import io
import tarfile
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


def write_shards(captions: Path, folder: Path) -> None:
    """The first caption of each image of `write_captions`, a tar file a split."""
    folder.mkdir()
    for split in ("train", "val"):
        with (
            open(captions / f"captions_{split}.tsv", encoding="utf-8") as table,
            tarfile.open(folder / f"{split}-0000.tar", "w") as shard,
        ):
            for image, caption in dict(reversed([*csv.reader(table, delimiter="\t")][1:])).items():
                shard.add(captions / "images" / image, image)
                member = tarfile.TarInfo(Path(image).stem + ".txt")
                member.size = len(text := caption.encode())
                shard.addfile(member, io.BytesIO(text))
