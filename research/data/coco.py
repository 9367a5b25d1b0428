"""Images with boxes around the objects in them, from files in the forms of COCO, YOLO and Pascal VOC."""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from research.data import archives
from research.data.box_files import Annotations, Entry, read_annotations
from research.data.image_files import decode_image, shown
from research.data.source import Example, Source, check_split
from research.errors import UserError
from research.ranges import AFTERWARDS, MOVED


@dataclass(frozen=True)
class Coco(Source):
    """{"image": uint8 [height, width, channels], "boxes": float32 [n, 4], left, top, right, bottom in pixels,
    "objects": int32 [n], their classes, "crowd": bool [n], boxes that stand for many things, "areas": float32 [n]}.

    path: of training. A COCO JSON file (`instances_train2017.json`); YOLO's folder of images (`my_data/images/train`,
    with texts in `my_data/labels/train`); or Pascal VOC's folder of XML files, or a list of them
    (`VOC2012/ImageSets/Main/train.txt`): which of them is found out. validation_path, test_path: the same of the other
    splits. images, validation_images, test_images: folders or zip archives of the images, where they are not the usual
    ones (`images` beside a JSON file, for all splits that of training; `JPEGImages` beside `Annotations`).
    classes: names of YOLO's numbers (otherwise in `classes.txt`), or VOC's in an order (otherwise sorted), or COCO's,
    such as those that a model knows already (otherwise its categories). VOC's difficult objects count as crowds.
    channels: 3 for colour, 1 for grey.
    """

    path: Annotated[str, MOVED]
    images: Annotated[str | None, MOVED] = None
    validation_path: Annotated[str | None, MOVED] = None
    validation_images: Annotated[str | None, MOVED] = None
    test_path: Annotated[str | None, AFTERWARDS] = None
    test_images: Annotated[str | None, AFTERWARDS] = None
    classes: tuple[str, ...] = ()
    channels: Literal[1, 3] = 3

    @property
    def splits(self) -> tuple[str, ...]:
        others = {"validation": self.validation_path, "test": self.test_path}
        return ("train", *(split for split, path in others.items() if path is not None))

    @property
    def image_shape(self) -> tuple[int | None, int | None, int]:
        """Height, width and channels; the sizes of files vary."""
        return None, None, self.channels

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of objects."""
        return self._read("train").classes

    def paths(self) -> tuple[str, ...]:
        paths = (self.path, self.images, self.validation_path, self.validation_images, self.test_path, self.test_images)
        return tuple(path for path in paths if path is not None)

    def _read(self, split: str) -> Annotations:
        check_split(split, self.splits)
        path = {"train": self.path, "validation": self.validation_path, "test": self.test_path}[split]
        assert path is not None
        images = {"train": None, "validation": self.validation_images, "test": self.test_images}[split] or self.images
        alike = split == "train" or path.lower().endswith(".json")
        return _annotations(path, images, self.classes if alike else self.class_names)

    def examples(self, split: str) -> "BoxedFiles":
        """The split's images. Raises UserError for annotations that are not what they should be, for classes other than
        those of training, and for images that are missing."""
        found = self._read(split)
        if found.classes != self.class_names:
            raise UserError(
                f"{split} has the classes {', '.join(found.classes)} and training {', '.join(self.class_names)}: use "
                "annotations with the same categories, in the same order"
            )
        if not found.entries:
            raise UserError(f"the {split} split has no images: list some in its annotations")
        there = {*archives.tree(found.images).files}
        if missing := [entry.name for entry in found.entries if entry.name not in there]:
            raise UserError(
                f"{len(missing):,} of {len(found.entries):,} images are not in {shown(found.images)} (the first is "
                f"{shown(missing[0])}): name their folder with data.images"
            )
        return BoxedFiles(found.images, found.entries, self.channels)

    def left_out(self, split: str) -> Sequence[str]:
        """Boxes that cannot be used, and those that are cut."""
        return self._read(split).left_out


@functools.lru_cache(maxsize=8)
def _annotations(path: str, images: str | None, classes: tuple[str, ...]) -> Annotations:
    return read_annotations(path, images, classes)


@dataclass(frozen=True)
class BoxedFiles(Sequence[Example]):
    """Images with their boxes by index; files are opened when they are asked for."""

    path: str
    entries: tuple[Entry, ...]
    channels: int

    def __len__(self) -> int:
        return len(self.entries)

    @functools.cached_property
    def box_counts(self) -> list[int]:
        """Boxes of each image that are not crowds."""
        return [int((~entry.crowd).sum()) for entry in self.entries]

    def __getitem__(self, index: int) -> Example:  # pyrefly: ignore[bad-override]
        entry = self.entries[index]
        name = os.path.join(self.path, entry.name)
        image = decode_image(archives.read(self.path, entry.name), name, None, self.channels)
        height, width = image.shape[:2]
        if entry.size is not None and entry.size != (height, width):
            sizes = [f"{rows} x {columns}" for rows, columns in ((height, width), entry.size)]
            raise UserError(f"{shown(name)} has {sizes[0]} pixels and its annotations say {sizes[1]}: correct one")
        boxes = entry.boxes if entry.size else entry.boxes * np.array([width, height] * 2, np.float32)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) if entry.areas is None else entry.areas
        return {"image": image, "boxes": boxes, "objects": entry.objects, "crowd": entry.crowd, "areas": areas}
