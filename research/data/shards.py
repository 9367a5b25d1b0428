"""Images and captions in tar files, as WebDataset lays them out: `000001.jpg` and beside it `000001.txt`, or
`000001.json` with the caption among its values.

Nothing is unpacked. A shard's headers and captions are read once, for an index of where each image lies, which is kept
as the tokens of large texts are (`token_store`); any image is then read by itself.
"""

import functools
import glob
import io
import json
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from research.data.archives import hidden, name_within
from research.data.image_files import LARGEST, SUFFIXES, decode_image, short, shown, too_large
from research.data.plain_text import check_text, decode
from research.data.source import Example
from research.data.token_store import Arrays, arrays_of, digest, origin_of
from research.errors import UserError

DTYPES = {
    "shard": np.dtype(np.int32),  # of each image: its file's number, where it begins there, and its bytes
    "start": np.dtype(np.int64),
    "size": np.dtype(np.int64),
    "length": np.dtype(np.int32),  # of each image: the bytes of its name, and of its caption
    "text": np.dtype(np.uint8),  # these names and captions, one behind the other
    "left": np.dtype(np.int64),  # of each shard: how many of LEFT
}
LEFT = ("images without a caption", "captions without an image", "links and other things that are not files")
TEXTS = (".txt", ".json")
LARGEST_TEXT = 2**20
"""Bytes of a caption's file, and of what a header may say, at most."""
RECORD = 20 * tarfile.BLOCKSIZE
"""Bytes, all of them 0, that end a tar file or what is left of them."""
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def are_shards(path: str) -> bool:
    """Whether a path means tar files: a folder of them, one, or a pattern such as `train-*.tar`."""
    return path.lower().endswith((".tar", *COMPRESSED)) or os.path.isdir(path)


def shards_of(path: str) -> list[str]:
    """The tar files that a path means, in the order of their names."""
    path = os.path.expanduser(path)
    if path.lower().endswith(COMPRESSED):
        raise UserError(f"{shown(path)} is compressed, so that no image in it can be read by itself: make it a .tar")
    if os.path.isdir(path):
        found = [entry.path for entry in os.scandir(path) if entry.name.lower().endswith(".tar")]
    else:
        found = [path] if os.path.exists(path) else glob.glob(path)
    if not found:
        raise UserError(f"{shown(path)} has no .tar files: give a folder of them, one, or a pattern with *")
    for file in found:
        if not stat.S_ISREG(os.stat(file).st_mode):
            raise UserError(f"{shown(file)} is not a file: remove it, or give a pattern that leaves it out")
    return sorted(found)


@dataclass(frozen=True)
class Shards:
    """The images with captions of some tar files, by number."""

    files: tuple[str, ...]
    arrays: Arrays

    def __len__(self) -> int:
        return len(self.arrays["start"])

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        """Where the name and the caption of each image end in the text."""
        return np.cumsum(self.arrays["length"], dtype=np.int64)

    def _text(self, place: int) -> str:
        start = self._ends[place - 1] if place else 0
        return self.arrays["text"][start : self._ends[place]].tobytes().decode()

    def caption(self, number: int) -> str:
        """The caption of an image."""
        return self._text(2 * number + 1)

    def name(self, number: int) -> str:
        """The path of an image, within its shard."""
        return os.path.join(self.files[self.arrays["shard"][number]], self._text(2 * number))

    def content(self, number: int) -> bytes:
        """The image's file. Raises UserError where a shard is not what it was."""
        shard, start, size = (int(self.arrays[name][number]) for name in ("shard", "start", "size"))
        file = self.files[shard]
        try:
            content = _at(file, start, size)
        except OSError as error:
            raise UserError(f"{shown(file)} cannot be read ({short(error)}): restore it") from error
        if len(content) < size:
            raise UserError(f"{shown(file)} has changed while it was in use: restore it, or start again")
        return content

    def left_out(self) -> list[str]:
        """What is not used, and how much of it."""
        counts = self.arrays["left"].reshape(-1, len(LEFT))
        found = [(kind, counts[:, place]) for place, kind in enumerate(LEFT) if counts[:, place].any()]
        return [
            f"{count.sum():,} {kind} are left out, such as in {shown(self.files[int(count.argmax())])}"
            for kind, count in found
        ]


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
        return {"image": image, "caption": self.shards.caption(number), "name": name}


@dataclass(frozen=True)
class _Captions(Sequence[str]):
    shards: Shards
    numbers: Sequence[int] | np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> str:  # pyrefly: ignore[bad-override]
        return self.shards.caption(int(self.numbers[index]))


@functools.lru_cache(maxsize=8)
def read_shards(path: str, key: str) -> Shards:
    """The images of the tar files that a path means.

    key: of the caption in a `.json` file; a `.txt` file beside it counts instead where this is "caption".
    Raises UserError for a file that is damaged or compressed, and for names and captions that cannot be used.
    """
    files = shards_of(path)

    def sound(arrays: Arrays) -> bool:
        count, sizes = len(arrays["start"]), np.array([os.path.getsize(file) for file in files])
        if any(len(arrays[name]) != count for name in ("shard", "size")) or len(arrays["length"]) != 2 * count:
            return False
        least = min((array.min() for name, array in arrays.items() if name != "text" and len(array)), default=0)
        if least < 0 or arrays["length"].sum() != len(arrays["text"]) or len(arrays["left"]) != len(LEFT) * len(files):
            return False
        if not count or arrays["shard"].max() >= len(files) or arrays["size"].max() > LARGEST:
            return not count
        return bool((arrays["start"] <= sizes[arrays["shard"]] - arrays["size"]).all())

    origin = origin_of(files, {"caption": key}, lambda: _fingerprint(files), "index")
    arrays = arrays_of(lambda: enumerate(files), functools.partial(_index, key=key), DTYPES, origin, "shards", sound)
    return Shards(tuple(files), arrays)


def _fingerprint(files: Sequence[str]) -> str:
    """Names, sizes and times: what has other ones is indexed again, which costs little."""
    stats = [os.stat(file) for file in files]
    return digest([[os.path.basename(f), s.st_size, s.st_mtime_ns] for f, s in zip(files, stats, strict=True)])


def _index(shard: tuple[int, str], key: str) -> tuple[Arrays, int]:
    """The arrays of one shard, and its bytes."""
    number, file = shard
    images, captions, odd = {}, {}, 0
    for name, start, size, content in _members(file):
        if name is None:
            odd += 1
            continue
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in SUFFIXES:
            other, _, _ = images.setdefault(stem, (name, start, size))
            if other != name:
                raise UserError(f"{shown(file)} has two images for one caption, {shown(other)} and {shown(name)}")
            images[stem] = name, start, size  # of two with one name the last counts, as when they are unpacked
        elif content is not None:
            captions[stem, suffix.lower()] = content
    starts, sizes, texts, alone = [], [], [], 0
    for stem, (name, start, size) in images.items():
        plain, record = (captions.pop((stem, suffix), None) for suffix in TEXTS)
        place = os.path.join(file, stem)
        caption = ""
        if plain is not None and key == "caption":
            caption = decode(plain, f"{shown(place)}.txt").strip()
        elif record is not None:
            caption = _recorded(record, f"{shown(place)}.json", key)
        if caption:
            starts.append(start)
            sizes.append(size)
            texts += [name.encode("utf-8", "replace"), caption.encode()]
        alone += not caption
    found = {
        "shard": [number] * len(starts),
        "start": starts,
        "size": sizes,
        "length": list(map(len, texts)),
        "text": np.frombuffer(b"".join(texts), np.uint8),
        "left": [alone, len({stem for stem, _ in captions}), odd],
    }
    return {name: np.array(found[name], dtype) for name, dtype in DTYPES.items()}, os.path.getsize(file)


def _recorded(content: bytes, place: str, key: str) -> str:
    """A caption among the values of JSON; "" where it is null."""
    text = decode(content, place)
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not JSON ({short(error)}): pack the shard anew, with it or without") from error
    caption = record.get(key, 0) if isinstance(record, dict) else 0
    if not isinstance(caption, str | None):
        raise UserError(f"{place} has no text {key!r}: set data.keys.caption to the name of the captions")
    check_text(caption or "", f"{key!r} in {place}")
    return (caption or "").strip()


class _Limited(io.FileIO):
    """A file of which no more is read at once than a header may have, whatever size it states."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= LARGEST_TEXT:
            raise tarfile.ReadError(f"a header has {size} bytes")
        return super().read(size) or b""


def _members(file: str) -> Iterator[tuple[str | None, int, int, bytes | None]]:
    """The files of a shard that are not hidden: name, start, size, and the content of a text.

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
                if name.lower().endswith(TEXTS):
                    if size > LARGEST_TEXT:
                        raise UserError(f"{shown(os.path.join(file, name))} has {size:,} bytes: shorten the caption")
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
