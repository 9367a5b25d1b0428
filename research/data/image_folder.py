"""Images from a folder or a zip archive with one sub-folder per class, decoded when they are asked for."""

import functools
import io
import os
import random
import threading
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from PIL import Image

from research.data.images import decode_image
from research.data.source import Example, Source, check_split
from research.errors import UserError
from research.ranges import AFTERWARDS, Pixels, Rate

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


@dataclass(frozen=True)
class ImageFolder(Source):
    """{"image": uint8 [height, width, channels], "label": int} from `class/image` files; class names are sorted.

    path: folder or zip of the training images; leading folders common to all images, such as "train/", are skipped.
    validation_path: the same for validation; without, validation_fraction of each class is taken out of training (a
    fixed sample). test_path: the same for the test. size: pixels per side to which images are resized (both sides,
    whatever their shape); None keeps them as they are. channels: 3 for colour, 1 for grey.
    """

    path: str
    validation_path: str | None = None
    test_path: Annotated[str | None, AFTERWARDS] = None
    validation_fraction: Rate = 0.1
    size: Pixels | None = None
    channels: Literal[1, 3] = 3

    @property
    def splits(self) -> tuple[str, ...]:
        there = {
            "train": True,
            "validation": self.validation_path is not None or self.validation_fraction > 0,
            "test": self.test_path is not None,
        }
        return tuple(split for split in there if there[split])

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(_files_by_class(self.path))

    def examples(self, split: str) -> Sequence[Example]:
        """The split's images; a UserError names a path without classes or a file that cannot be decoded."""
        check_split(split, self.splits)
        own_path = {"train": self.path, "validation": self.validation_path, "test": self.test_path}[split]
        if split != "train" and own_path is not None:
            path, files = own_path, _files_by_class(own_path)
        else:
            path, files = self.path, self._part_of_training(split)
        labels = {name: label for label, name in enumerate(self.class_names)}
        unknown = sorted(files.keys() - labels.keys())
        if unknown:
            raise UserError(f"class {unknown[0]!r} of {path} is not in {self.path}: rename or remove it")
        entries = tuple((name, labels[class_name]) for class_name, names in files.items() for name in names)
        return ImageFiles(path, entries, self.size, self.channels)

    def _part_of_training(self, split: str) -> dict[str, list[str]]:
        files = _files_by_class(self.path)
        if self.validation_path is not None:
            return files
        parts = {}
        for class_name, names in files.items():
            # At least one for validation where there is any, but never the last one.
            count = min(max(round(len(names) * self.validation_fraction), self.validation_fraction > 0), len(names) - 1)
            held_out = set(random.Random(class_name).sample(names, count))
            parts[class_name] = [name for name in names if (name in held_out) == (split == "validation")]
        return parts


@dataclass(frozen=True)
class ImageFiles(Sequence):
    """Images by index. Only names are kept, so it travels to worker threads and processes, which open files anew."""

    path: str
    entries: tuple[tuple[str, int], ...]  # name within the path, label
    size: int | None
    channels: int

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Example:
        path, content = self._file(index)
        size = None if self.size is None else (self.size, self.size)
        return {"image": decode_image(content, path, size, self.channels), "label": self.entries[index][1]}

    def image_size(self, index: int) -> tuple[int, int]:
        """Height and width of an image, which is not decoded for that."""
        if self.size is not None:
            return self.size, self.size
        path, content = self._file(index)
        try:
            with Image.open(io.BytesIO(content)) as image:
                return image.height, image.width
        except Exception as error:  # as in decode_image
            raise UserError(f"{path} cannot be read as an image ({error}): repair or remove it") from error

    def _file(self, index: int) -> tuple[str, bytes]:
        """The path of a file, for messages, and what it holds."""
        name, _ = self.entries[index]
        path = os.path.join(self.path, name)
        try:
            return path, _read(self.path, name)
        except (OSError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path} cannot be read ({error}): repair or remove it") from error


_open_archives = threading.local()


def _read(path: str, name: str) -> bytes:
    """The bytes of one file. An archive is opened once per thread and process: file positions are not shared."""
    if os.path.isdir(path):
        return Path(path, name).read_bytes()
    if getattr(_open_archives, "process", None) != os.getpid():
        _open_archives.process, _open_archives.archives = os.getpid(), {}
    archives = _open_archives.archives
    if path not in archives:
        archives[path] = zipfile.ZipFile(path)
    return archives[path].read(name)


@functools.lru_cache(maxsize=8)
def _files_by_class(path: str) -> dict[str, list[str]]:
    """Class name -> image files within `path`, both sorted."""
    names = [name for name in _listing(path) if not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))]
    images = sorted(name.split("/") for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES)
    if not images:
        raise UserError(f"{path} has no class folders with images: put each class's images in a sub-folder")
    # "train/cat/1.jpg" beside "train/dog/2.jpg": folders above the classes are common to all images.
    depth = 0
    while min(map(len, images)) > depth + 2 and len({parts[depth] for parts in images}) == 1:
        depth += 1
    for parts in images:
        if len(parts) != depth + 2:
            raise UserError(
                f"{'/'.join(parts)} of {path} is not in a class folder: give a path whose sub-folders are the classes"
            )
    leading = images[0][:depth]
    folders = {
        name.split("/")[depth] for name in names if name.count("/") > depth and name.split("/")[:depth] == leading
    }
    files: dict[str, list[str]] = {class_name: [] for class_name in sorted(folders)}
    for parts in images:
        files[parts[depth]].append("/".join(parts))
    for class_name, members in files.items():
        if not members:
            raise UserError(f"class folder {class_name!r} of {path} has no image: add some or remove the folder")
    return files


def _listing(path: str) -> list[str]:
    """Files and folders (these with a final "/") within a folder or zip archive, relative to it."""
    if os.path.isdir(path):
        return [
            Path(folder, name).relative_to(path).as_posix() + end
            for folder, folders, files in os.walk(path)
            for names, end in ((folders, "/"), (files, ""))
            for name in names
        ]
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: give a folder or a zip archive of images") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as a zip archive ({error}): give a folder or a zip archive") from error
