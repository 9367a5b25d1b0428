"""Images with a mask for each, from two folders of files with the same names, decoded when they are asked for."""

import functools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from research.data import archives
from research.data.image_files import SUFFIXES, decode_image, decode_mask, image_size, shown
from research.data.source import Example, Source, check_split
from research.data.transforms.geometry import IGNORED
from research.errors import UserError
from research.ranges import AFTERWARDS, MOVED, Range

Value = Annotated[int, Range(-(2**31), 2**31 - 1)]
Colour = tuple[int, int, int]
HeldOut = Annotated[int, Range(0, 2**31 - 1)]
NAMED = 5
"""Files that a sentence names."""


@dataclass(frozen=True)
class ImageMasks(Source):
    """{"image": uint8 [height, width, channels], "mask": uint8 [height, width]}, a class for each pixel or IGNORED.

    path: folder or zip archive in which `images` and `masks` are folders; a mask has its image's name, with any suffix,
    and its size. classes: their names. values: what stands for each class in a mask, numbers (of grey, or a palette's
    indices) or colours; 0, 1, 2, ... unless given. ignore: the number or colour of pixels that count for nothing.
    validation_path, test_path: the same as `path` for these splits. Without them `test` images are held out, the last
    ones where numbers in names count as numbers, and `validation` images before these: neighbouring slices of a volume
    stay together. channels: 3 for colour, 1 for grey.
    """

    path: Annotated[str, MOVED]
    classes: tuple[str, ...]
    values: tuple[Value, ...] | tuple[Colour, ...] | None = None
    ignore: Value | Colour | None = None
    images: str = "images"
    masks: str = "masks"
    validation_path: Annotated[str | None, MOVED] = None
    test_path: Annotated[str | None, AFTERWARDS] = None
    validation: HeldOut = 0
    test: HeldOut = 0
    channels: Literal[1, 3] = 3

    def __post_init__(self):
        if not 0 < len(self.classes) <= IGNORED or len({*self.classes}) < len(self.classes):
            raise UserError(f"data.classes has {len(self.classes)} names: give 1 to {IGNORED} different ones")
        colours = [value for value in (*(self.values or ()), self.ignore) if isinstance(value, tuple)]
        if wrong := [colour for colour in colours if not all(0 <= part <= 255 for part in colour)]:
            raise UserError(f"data.values and data.ignore have the colour {wrong[0]}: use numbers from 0 to 255")
        keys = self._keys
        if len(keys) != len(self.classes):
            raise UserError(f"data.values has {len(keys)} values for {len(self.classes)} data.classes: give one each")
        every = [*keys, *([] if self.ignore is None else [_key(self.ignore)])]
        if len({*every}) < len(every):
            raise UserError("data.values and data.ignore name a value twice: give each class a value of its own")
        if self.ignore is not None and isinstance(self.ignore, tuple) != self.colours:
            raise UserError(
                f"data.ignore is {self.ignore} and data.values are {'colours' if self.colours else 'numbers'}: use one "
                "kind for both"
            )

    @property
    def colours(self) -> bool:
        """Whether masks are read as colours."""
        return bool(self.values) and isinstance(self.values[0], tuple)

    @property
    def _keys(self) -> list[int]:
        """The number of each class in a mask, colours as red · 65536 + green · 256 + blue."""
        return [*range(len(self.classes))] if self.values is None else [_key(value) for value in self.values]

    @property
    def splits(self) -> tuple[str, ...]:
        there = {
            "train": True,
            "validation": self.validation_path is not None or self.validation > 0,
            "test": self.test_path is not None or self.test > 0,
        }
        return tuple(split for split in there if there[split])

    @property
    def image_shape(self) -> tuple[int | None, int | None, int]:
        """Height, width and channels; the sizes of files vary."""
        return None, None, self.channels

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classes

    def paths(self) -> tuple[str, ...]:
        return tuple(path for path in (self.path, self.validation_path, self.test_path) if path is not None)

    def examples(self, split: str) -> "MaskedFiles":
        """The split's images; a UserError names a path without pairs, or a file that cannot be read."""
        check_split(split, self.splits)
        own = {"validation": self.validation_path, "test": self.test_path}.get(split)
        path = own or self.path
        pairs = _found(path, self.images, self.masks)[0]
        if own is None:
            test = 0 if self.test_path else self.test
            ends = {"test": len(pairs), "validation": len(pairs) - test}
            ends["train"] = ends["validation"] - (0 if self.validation_path else self.validation)
            if ends["train"] < 1:
                raise UserError(
                    f"{shown(path)} has {len(pairs)} images with masks, and data.validation {self.validation} and "
                    f"data.test {self.test} leave none for training: hold out fewer"
                )
            starts = {"train": 0, "validation": ends["train"], "test": ends["validation"]}
            pairs = pairs[starts[split] : ends[split]]
        ignored = None if self.ignore is None else _key(self.ignore)
        return MaskedFiles(path, pairs, tuple(self._keys), ignored, self.colours, self.channels)

    def left_out(self, split: str) -> Sequence[str]:
        """Images without a mask, masks without an image, and other files, of a path with its first split."""
        own = {"train": self.path, "validation": self.validation_path, "test": self.test_path}[split]
        return _found(own, self.images, self.masks)[1] if own else ()


@dataclass(frozen=True)
class MaskedFiles(Sequence[Example]):
    """Images and masks by index. Only names are kept, so it travels to workers, which open files anew.

    keys: the number of each class in a mask. ignored: that of pixels which count for nothing.
    """

    path: str
    pairs: tuple[tuple[str, str], ...]
    keys: tuple[int, ...]
    ignored: int | None
    colours: bool
    channels: int

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Example:  # pyrefly: ignore[bad-override]
        (image_path, image_file), (mask_path, mask_file) = (self._file(name) for name in self.pairs[index])
        image = decode_image(image_file, image_path, None, self.channels)
        values = decode_mask(mask_file, mask_path, colours=self.colours)
        if values.shape[:2] != image.shape[:2]:
            sizes = [f"{height} x {width}" for height, width in (values.shape[:2], image.shape[:2])]
            raise UserError(
                f"{shown(mask_path)} has {sizes[0]} pixels and its image {sizes[1]}: give a mask of its size"
            )
        return {"image": image, "mask": self._labels(values, mask_path)}

    def image_size(self, index: int) -> tuple[int, int]:
        """Height and width of an image, which is not decoded for that."""
        path, content = self._file(self.pairs[index][0])
        return image_size(content, path)

    def _file(self, name: str) -> tuple[str, bytes]:
        """The path of a file, for messages, and what it holds."""
        return os.path.join(self.path, name), archives.read(self.path, name)

    def _labels(self, values: np.ndarray, name: str) -> np.ndarray:
        numbers = values @ np.array([65536, 256, 1]) if self.colours else values
        labels = [*range(len(self.keys)), IGNORED]
        known = [*self.keys, *([] if self.ignored is None else [self.ignored])]
        order = np.argsort(known)
        places = np.searchsorted(np.array(known)[order], numbers).clip(max=len(known) - 1)
        wrong = np.array(known)[order][places] != numbers
        if wrong.any():
            first = tuple(values[wrong][0].tolist()) if self.colours else int(values[wrong][0])
            raise UserError(
                f"{int(wrong.sum()):,} pixels of {shown(name)} are not of a class (the first is {first}): add what "
                "they are to data.classes and data.values, or set data.ignore"
            )
        return np.array(labels, np.uint8)[order][places]


def _key(value: int | tuple[int, ...]) -> int:
    """A number, or a colour as one."""
    return value if isinstance(value, int) else value[0] * 65536 + value[1] * 256 + value[2]


@functools.lru_cache(maxsize=8)
def _found(path: str, images: str, masks: str) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """The pairs of image and mask within a path, in natural order, and sentences about what is left out."""
    files = archives.tree(path).files
    found, others = {images: {}, masks: {}}, []
    for name in files:
        folder = next((folder for folder in (images, masks) if name.startswith(f"{folder}/")), None)
        stem, suffix = os.path.splitext(name)
        if folder is None or suffix.lower() not in SUFFIXES:
            others.append(name)
        elif (key := stem[len(folder) + 1 :]) in found[folder]:
            again = found[folder][key]
            raise UserError(f"{shown(name)} of {shown(path)} has the name of {shown(again)}: remove one of them")
        else:
            found[folder][key] = name
    both = sorted(found[images].keys() & found[masks].keys(), key=_natural)
    lonely = [sorted(found[folder][key] for key in found[folder].keys() - {*both}) for folder in (images, masks)]
    if not both:
        raise UserError(
            f"{shown(path)} has no image in {images}/ with a mask of its name in {masks}/: name the folders with "
            "data.images and data.masks"
        )
    kinds = zip(([*lonely, others]), ("without a mask", "without an image", "of another kind"), strict=True)
    left_out = [_sentence(path, names, kind) for names, kind in kinds if names]
    return tuple((found[images][key], found[masks][key]) for key in both), tuple(left_out)


def _sentence(path: str, names: list[str], kind: str) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    number = "1 file" if len(names) == 1 else f"{len(names):,} files"
    return f"{number} of {shown(path)} {kind}, left out: {', '.join(map(shown, names[:NAMED]))}{more}"


def _natural(name: str) -> list[tuple[int, str]]:
    """A key by which 2 comes before 10."""
    return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", name)]
