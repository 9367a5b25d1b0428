"""Images and captions or labels in tar files, as WebDataset lays them out: `000001.jpg` and beside it `000001.txt` with
its caption or `000001.cls` with its label, or `000001.json` with either among its values.

Nothing is unpacked. A shard's headers and texts are read once, for an index of where each image lies, which is kept as
the tokens of large texts are (`token_store`); any image is then read by itself.
"""

import functools
import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from research.data.archives import hidden, name_within
from research.data.image_files import LARGEST, SUFFIXES, decode_image, short, shown, too_large
from research.data.plain_text import check_text, decode
from research.data.records import Records, are_sound, files_like, fingerprint
from research.data.source import Example
from research.data.token_store import Arrays, arrays_of, origin_of
from research.errors import UserError

DTYPES = {
    "shard": np.dtype(np.int32),  # of each image: its file's number, where it begins there, and its bytes
    "start": np.dtype(np.int64),
    "size": np.dtype(np.int64),
    "length": np.dtype(np.int32),  # of each image: the bytes of its name, and of its caption or label
    "text": np.dtype(np.uint8),  # these, one behind the other
    "left": np.dtype(np.int64),  # of each shard: how many of `Beside.left`
}
LARGEST_TEXT = 2**20
"""Bytes of a caption's or a label's file, and of what a header may say, at most."""
RECORD = 20 * tarfile.BLOCKSIZE
"""Bytes, all of them 0, that end a tar file or what is left of them."""
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class Beside:
    """What a shard has beside each image, in a file of its stem.

    suffix: of the file that holds nothing else, which counts before `.json` unless `plain` is False. keys: in `.json`,
    of which the first that is there counts. numbers: whether it may be a whole number; a negative one says that the
    image has none.
    """

    what: str
    suffix: str
    keys: tuple[str, ...]
    plain: bool = True
    numbers: bool = False

    @property
    def left(self) -> tuple[str, ...]:
        """What is left out of a shard."""
        return (
            f"images without a {self.what}",
            f"{self.what}s without an image",
            "links and other things that are not files",
        )

    def text(self, value: str | int | None) -> str:
        """A value of JSON as a text; "" says that there is none."""
        return (value or "").strip() if not isinstance(value, int) else str(value) if value >= 0 else ""


def captions(key: str) -> Beside:
    """Captions by the name `key` in `.json`; those of `.txt` count where this is "caption"."""
    return Beside("caption", ".txt", (key,), key == "caption")


def labels(key: str) -> Beside:
    """Labels by the name `key` in `.json`, "label" meaning "cls" too; those of `.cls` count where it is either."""
    known = ("label", "cls")
    return Beside("label", ".cls", known if key == known[0] else (key,), key in known, numbers=True)


def are_shards(path: str) -> bool:
    """Whether a path means tar files: a folder of them, one, or a pattern such as `train-*.tar`."""
    return path.lower().endswith((".tar", *COMPRESSED)) or os.path.isdir(path)


def shards_of(path: str) -> list[str]:
    """The tar files that a path means, in the order of their names."""
    if path.lower().endswith(COMPRESSED):
        raise UserError(f"{shown(path)} is compressed, so that no image in it can be read by itself: make it a .tar")
    return files_like(path, ".tar")


@dataclass(frozen=True)
class Shards(Records):
    """The images of some tar files with a caption or a label, by number."""

    def content(self, number: int) -> bytes:
        shard, start, size = (int(self.arrays[name][number]) for name in ("shard", "start", "size"))
        file = self.files[shard]
        try:
            content = _at(file, start, size)
        except OSError as error:
            raise UserError(f"{shown(file)} cannot be read ({short(error)}): restore it") from error
        if len(content) < size:
            raise UserError(f"{shown(file)} has changed while it was in use: restore it, or start again")
        return content


@dataclass(frozen=True)
class CaptionedShards(Sequence[Example]):
    """Some of the images of shards, decoded when they are asked for."""

    shards: Shards
    numbers: Sequence[int] | np.ndarray
    size: int | None
    channels: int

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def captions(self) -> Sequence[str]:
        """The captions, for which no image is read."""
        return _Captions(self.shards, self.numbers)

    def __getitem__(self, index: int) -> Example:  # pyrefly: ignore[bad-override]
        number = int(self.numbers[index])
        name = self.shards.name(number)
        size = None if self.size is None else (self.size, self.size)
        image = decode_image(self.shards.content(number), name, size, self.channels)
        return {"image": image, "caption": self.shards.note(number), "name": name}


@dataclass(frozen=True)
class _Captions(Sequence[str]):
    shards: Shards
    numbers: Sequence[int] | np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> str:  # pyrefly: ignore[bad-override]
        return self.shards.note(int(self.numbers[index]))


@functools.lru_cache(maxsize=8)
def read_shards(path: str, beside: Beside) -> Shards:
    """The images of the tar files that a path means, with their captions or labels.

    Raises UserError for a file that is damaged or compressed, and for names and texts that cannot be used.
    """
    files = shards_of(path)

    def sound(arrays: Arrays) -> bool:
        sizes = np.array([os.path.getsize(file) for file in files])
        if not are_sound(arrays, len(files)) or len(arrays["start"]) != len(arrays["size"]):
            return False
        if (arrays["start"] < 0).any() or len(arrays["left"]) != len(beside.left) * len(files):
            return False
        return bool((arrays["start"] <= sizes[arrays["shard"]] - arrays["size"]).all())

    origin = origin_of(files, {beside.what: beside.keys[0]}, lambda: fingerprint(files), "index")
    encode = functools.partial(_index, beside=beside)
    arrays = arrays_of(lambda: enumerate(files), encode, DTYPES, origin, "shards", sound)
    return Shards(tuple(files), arrays, beside.left)


def _index(shard: tuple[int, str], beside: Beside) -> tuple[Arrays, int]:
    """The arrays of one shard, and its bytes."""
    number, file = shard
    suffixes = (beside.suffix, ".json")
    images, notes, odd = {}, {}, 0
    for name, start, size, content in _members(file, suffixes):
        if name is None:
            odd += 1
            continue
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in SUFFIXES:
            other, _, _ = images.setdefault(stem, (name, start, size))
            if other != name:
                raise UserError(f"{shown(file)} has two images for one {beside.what}, {shown(other)} and {shown(name)}")
            images[stem] = name, start, size  # of two with one name the last counts, as when they are unpacked
        elif content is not None:
            notes[stem, suffix.lower()] = content
    starts, sizes, texts, alone = [], [], [], 0
    for stem, (name, start, size) in images.items():
        plain, record = (notes.pop((stem, suffix), None) for suffix in suffixes)
        place = os.path.join(file, stem)
        note = ""
        if plain is not None and beside.plain:
            note = _written(plain, f"{shown(place)}{beside.suffix}", beside)
        elif record is not None:
            note = _recorded(record, f"{shown(place)}.json", beside)
        if note:
            starts.append(start)
            sizes.append(size)
            texts += [name.encode("utf-8", "replace"), note.encode()]
        alone += not note
    found = {
        "shard": [number] * len(starts),
        "start": starts,
        "size": sizes,
        "length": list(map(len, texts)),
        "text": np.frombuffer(b"".join(texts), np.uint8),
        "left": [alone, len({stem for stem, _ in notes}), odd],
    }
    return {name: np.array(found[name], dtype) for name, dtype in DTYPES.items()}, os.path.getsize(file)


def _written(content: bytes, place: str, beside: Beside) -> str:
    """A caption or label that has a file of its own; "" where that says that there is none."""
    text = decode(content, place).strip()
    return "" if beside.numbers and text.startswith("-") and text[1:].isdecimal() else text


def _recorded(content: bytes, place: str, beside: Beside) -> str:
    """A caption or label among the values of JSON; "" where it is null."""
    text = decode(content, place)
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not JSON ({short(error)}): pack the shard anew, with it or without") from error
    keys = [key for key in beside.keys if isinstance(record, dict) and key in record]
    value = record[keys[0]] if keys else False
    if not isinstance(value, str | int | None if beside.numbers else str | None) or isinstance(value, bool):
        name = " or ".join(map(repr, beside.keys))
        kind = "text or whole number" if beside.numbers else "text"
        raise UserError(f"{place} has no {kind} {name}: set data.keys.{beside.what} to the name of the {beside.what}s")
    note = beside.text(value)
    check_text(note, f"{keys[0]!r} in {place}")
    return note


class _Limited(io.FileIO):
    """A file of which no more is read at once than a header may have, whatever size it states."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= LARGEST_TEXT:
            raise tarfile.ReadError(f"a header has {size} bytes")
        return super().read(size) or b""


def _members(file: str, texts: tuple[str, ...]) -> Iterator[tuple[str | None, int, int, bytes | None]]:
    """The files of a shard that are not hidden: name, start, size, and the content of those with suffixes of texts.

    The name is None for what is not a file, such as a link.
    """
    try:
        with _Limited(file) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            whole = os.path.getsize(file)
            while (member := tar.next()) is not None:
                # The library would keep them all.
                tar.members.clear()  # pyrefly: ignore[missing-attribute]
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    yield None, 0, 0, None
                    continue
                name = name_within(member.name, shown(file))
                if any(map(hidden, name.split("/"))):
                    continue
                start, size = member.offset_data, member.size
                if size > LARGEST:
                    raise too_large(os.path.join(file, name), size)
                if start + size > whole:
                    raise tarfile.ReadError(f"it ends within {name}")
                content = None
                if name.lower().endswith(texts):
                    if size > LARGEST_TEXT:
                        raise UserError(f"{shown(os.path.join(file, name))} has {size:,} bytes: shorten it")
                    content = _at(file, start, size)
                yield name, start, size, content
            end = _at(file, tar.offset, RECORD)  # the library also stops where a header is damaged
            if len(end) < tarfile.BLOCKSIZE or end.strip(b"\0"):
                raise tarfile.ReadError(f"byte {tar.offset:,} begins neither a file nor the end")
    except UserError:
        raise
    except Exception as error:  # whatever the library makes of a damaged file
        raise UserError(
            f"{shown(file)} cannot be read as a tar file ({short(error)}): restore it, or pack it anew"
        ) from error


def _at(file: str, start: int, size: int) -> bytes:
    """Some bytes of a file, fewer where it ends before."""
    with open(file, "rb") as stream:
        stream.seek(start)
        return stream.read(size)
