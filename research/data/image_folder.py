"""Images from a folder or a zip archive with one sub-folder per class, or from tar or Parquet files with their labels.

They are decoded when they are asked for.
"""

import dataclasses
import functools
import hashlib
import itertools
import os
import random
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from research.data import archives
from research.data.image_files import SIGNATURE_BYTES, SUFFIXES, image_format, shown
from research.data.labelled_images import (
    KEYS,
    READ_FOR_FINGERPRINT,
    LabelledFiles,
    LabelledRecords,
    find_records,
    kind_of_records,
)  # fmt: skip
from research.data.records import Records
from research.data.source import Source, check_split
from research.errors import UserError
from research.ranges import AFTERWARDS, MOVED, Pixels, Rate

HEIC_SUFFIXES = (".heic", ".heif", ".hif")
NAMED = 5
"""Files that a sentence names."""


@dataclass(frozen=True)
class ImageFolder(Source):
    """{"image": uint8 [height, width, channels], "label": int} from `class/image` files; class names are sorted.

    path: folder or zip of the training images; leading folders common to all images, such as "train/", are skipped. Or
    tar or Parquet files, as `research.data.shards` and `research.data.image_table` read them: a folder of them, one, or
    a pattern such as `train-*.tar`. keys: the columns of Parquet files, and the label's name in `.json` files of tar
    files. validation_path: the same for validation; without, validation_fraction of each class is taken out of training
    (a fixed sample). test_path: the same for the test. size: pixels per side to which images are resized (both sides,
    whatever their shape); None keeps them as they are. channels: 3 for colour, 1 for grey.
    """

    path: Annotated[str, MOVED]
    validation_path: Annotated[str | None, MOVED] = None
    test_path: Annotated[str | None, AFTERWARDS] = None
    validation_fraction: Rate = 0.1
    size: Pixels | None = None
    channels: Literal[1, 3] = 3
    keys: dict[str, str] = dataclasses.field(default_factory=lambda: dict(KEYS))

    def __post_init__(self):
        if self.keys.keys() != KEYS.keys():
            raise UserError(f"data.keys has {', '.join(self.keys) or 'nothing'}: use image and label")

    @property
    def splits(self) -> tuple[str, ...]:
        there = {
            "train": True,
            "validation": self.validation_path is not None or self.validation_fraction > 0,
            "test": self.test_path is not None,
        }
        return tuple(split for split in there if there[split])

    @property
    def image_shape(self) -> tuple[int | None, int | None, int]:
        """Height, width and channels; the sizes of files vary."""
        return self.size, self.size, self.channels

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self._found(self.path).classes)

    def paths(self) -> tuple[str, ...]:
        return tuple(path for path in (self.path, self.validation_path, self.test_path) if path is not None)

    def examples(self, split: str) -> "ImageFiles | LabelledRecords":
        """The split's images; a UserError names a path without classes or a file that cannot be decoded."""
        own_path = self._own_path(split)
        path = own_path or self.path
        found = self._found(path)
        members = found.classes if own_path else self._part_of_training(split)
        labels = {name: label for label, name in enumerate(self.class_names)}
        unknown = sorted(name for name in members.keys() - labels.keys() if len(members[name]))
        if unknown:
            raise UserError(f"class {unknown[0]!r} of {shown(path)} is not in {shown(self.path)}: rename or remove it")
        if found.records is None:
            entries = tuple((each, labels[name]) for name, several in members.items() for each in several)
            return ImageFiles(self.size, self.channels, path, entries)
        numbers = np.concatenate([*members.values()])
        own = np.repeat([labels.get(name, 0) for name in members], [len(each) for each in members.values()])
        order = np.argsort(numbers)  # in which they lie
        return LabelledRecords(self.size, self.channels, found.records, numbers[order], own[order].astype(np.int32))

    def fingerprint(self, split: str) -> str:
        """A digest of names, sizes and labels, and of the checksums of a zip or the content of some files otherwise.

        Names are those below the folder of the classes, or within tar files, so it does not matter where the data lie.
        """
        return self.examples(split).fingerprint()

    def left_out(self, split: str) -> Sequence[str]:
        """What lies beside the images of a split's own path; nothing for a split that is a part of training."""
        path = self.path if split == "train" else self._own_path(split)
        return self._found(path).left_out if path else ()

    def _own_path(self, split: str) -> str | None:
        """None for a part of the training path."""
        check_split(split, self.splits)
        return {"train": None, "validation": self.validation_path, "test": self.test_path}[split]

    def _found(self, path: str) -> "_Found":
        if kind := kind_of_records(path):
            classes, records = find_records(path, kind, self.keys["image"], self.keys["label"])
            return _Found(classes, tuple(records.left_out()), records)
        if self.keys != KEYS:
            raise UserError(f"{shown(path)} is a folder or an archive, which has no columns: leave data.keys out")
        return _found(path)

    def _part_of_training(self, split: str) -> Mapping[str, Sequence | np.ndarray]:
        found = self._found(self.path).classes
        if self.validation_path is not None:
            return found
        parts = {}
        for class_name, members in found.items():
            # At least one for validation where there is any, but never the last one.
            count = min(max(round(len(members) * self.validation_fraction), self.validation_fraction > 0),
                        max(len(members) - 1, 0))  # fmt: skip
            held_out = np.zeros(len(members), bool)
            held_out[random.Random(class_name).sample(range(len(members)), count)] = True
            chosen = held_out == (split == "validation")
            arrays = isinstance(members, np.ndarray)
            parts[class_name] = members[chosen] if arrays else list(itertools.compress(members, chosen))
        return parts


@dataclass(frozen=True)
class ImageFiles(LabelledFiles):
    """Images by index. Only names are kept, so it travels to worker threads and processes, which open files anew."""

    path: str
    entries: tuple[tuple[str, int], ...]  # name within the path, label

    def __len__(self) -> int:
        return len(self.entries)

    def label(self, index: int) -> int:
        return self.entries[index][1]

    def file(self, index: int) -> tuple[str, bytes]:
        name, _ = self.entries[index]
        return os.path.join(self.path, name), archives.read(self.path, name)

    def fingerprint(self) -> str:
        """What `ImageFolder.fingerprint` says."""
        names, digest = [name for name, _ in self.entries], hashlib.sha256()
        for (name, label), (size, checksum) in zip(self.entries, archives.sizes(self.path, names), strict=True):
            own = "/".join(name.split("/")[-2:])
            digest.update(f"{own}\n{size} {checksum} {label}\n".encode(errors="surrogateescape"))
        if os.path.isdir(self.path) and names:
            for place in np.unique(np.linspace(0, len(names) - 1, READ_FOR_FINGERPRINT).astype(int)):
                digest.update(hashlib.sha256(archives.read(self.path, names[place])).digest())
        return digest.hexdigest()


@dataclass(frozen=True)
class _Found:
    """Class name -> image files within a path, both sorted, and sentences about what is left out.

    Of tar and Parquet files: class name -> numbers of the images in `records`.
    """

    classes: Mapping[str, Sequence | np.ndarray]
    left_out: tuple[str, ...]
    records: Records | None = None


@functools.lru_cache(maxsize=8)
def _found(path: str) -> _Found:
    tree = archives.tree(path)
    names = {name for name in tree.files if _is_image(path, name)}
    left_out = _left_out(path, tree, [name for name in tree.files if name not in names])
    images = sorted(name.split("/") for name in names)
    if not images:
        raise UserError(
            f"{shown(path)} has no class folders with images{_aside(left_out)}: put each class's images in a sub-folder"
        )
    # "train/cat/1.jpg" beside "train/dog/2.jpg": folders above the classes are common to all images.
    depth = 0
    while min(map(len, images)) > depth + 2 and len({parts[depth] for parts in images}) == 1:
        depth += 1
    for parts in images:
        if len(parts) != depth + 2:
            raise UserError(
                f"{shown('/'.join(parts))} of {shown(path)} is not in a class folder: "
                "give a path whose sub-folders are the classes"
            )
    folders = (name.split("/") for name in tree.folders)
    classes = {_class_name(path, parts[depth]): [] for parts in sorted(folders)
               if len(parts) == depth + 1 and parts[:depth] == images[0][:depth]}  # fmt: skip
    for parts in images:
        classes[_class_name(path, parts[depth])].append("/".join(parts))
    for class_name, members in classes.items():
        if not members:
            raise UserError(
                f"class folder {class_name!r} of {shown(path)} has no image{_aside(left_out)}: "
                "add some or remove the folder"
            )
    return _Found({name: classes[name] for name in sorted(classes)}, tuple(left_out))


def _is_image(path: str, name: str) -> bool:
    """By its suffix, and by its first bytes if it has none."""
    suffix = _suffix(name)
    return suffix in SUFFIXES or (
        not suffix and image_format(archives.read_start(path, name, SIGNATURE_BYTES)) is not None
    )


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower().removesuffix(".")


def _class_name(path: str, name: str) -> str:
    """macOS writes an accent as a character of its own, others do not: these are the same class."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"class folder {shown(name)!r} of {shown(path)} has a name that is not UTF-8: rename it"
        ) from error
    return unicodedata.normalize("NFC", name)


def _left_out(path: str, tree: archives.Tree, others: list[str]) -> list[str]:
    """Sentences with the number of files and a few names, for each reason why they are not examples."""
    heic = [name for name in others if _suffix(name) in HEIC_SUFFIXES]
    plain = sorted(set(others) - set(heic))
    reasons = (
        (plain, "is not an image and is left out", "are not images and are left out"),
        (heic, "is HEIC and is left out until it is", "are HEIC and are left out until they are"),
        (tree.odd, "is neither a file nor a folder and is left out", "are neither files nor folders and are left out"),
        (
            tree.again,
            "leads to a folder that is read under another name and is left out",
            "lead to folders that are read under other names and are left out",
        ),
        (
            tree.repeated,
            "is followed by another of its name, which is used",
            "are followed by others of their names, which are used",
        ),
    )
    sentences = []
    for names, one, several in reasons:
        more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
        number, says = ("1 file", one) if len(names) == 1 else (f"{len(names):,} files", several)
        then = " converted to JPEG or PNG" if names is heic else ""
        few = ", ".join(map(shown, names[:NAMED])) + more
        sentences += [f"{number} of {shown(path)} {says}{then}: {few}"] if names else []
    return sentences


def _aside(left_out: Sequence[str]) -> str:
    return f" ({'; '.join(left_out)})" if left_out else ""
