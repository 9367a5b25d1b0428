"""What is made once of large data, such as the tokens of a text, and kept in files that are mapped into memory: shared
by processes and later runs.

A store is a folder with one flat file per array and `store.json`, which says what it was made of. It is written in
`NAME.partial`, which holds at any time a whole number of chunks: whoever is killed leaves it, and the next to come
continues there. Chunks are encoded ahead, by the threads of the tokenizer's library, and written in their order.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import rich.progress
from rich.console import Console

from research.errors import UserError
from research.files import fits, read_or_set_aside, set_aside, write_json
from research.locks import holder, locked

SMALL = 2**23
"""Bytes of text below which nothing is kept: its tokens are made again in about a second."""
AHEAD = 2
"""Chunks that are encoded while one is written."""
SAVE_EVERY = 16
"""Chunks after which a killed process resumes at the latest."""
BLOCK = 2**24
"""Elements that are looked at together."""
FORMAT = 1

CACHE_VARIABLE = "HEED_CACHE"
"""Environment variable with the folder of all stores, which lie beside their data otherwise."""
TOKENS = "tokens"

type Arrays = Mapping[str, np.ndarray]
type Encode = Callable[[Any], tuple[Arrays, int]]
"""From a chunk to the next part of each array and the number of bytes of text."""


class Mapped(np.memmap):
    """A file as a flat array. Pickled whole, as for worker processes, it is its path and no copy."""

    def __new__(cls, path: Path, dtype: np.dtype) -> "Mapped":
        array = super().__new__(cls, path, dtype, "r")
        array.path = path
        return array

    def __array_finalize__(self, array: Any) -> None:
        super().__array_finalize__(array)
        self.path = None  # of a part, or of a result

    def __reduce__(self) -> Any:
        return (Mapped, (self.path, self.dtype)) if self.path else np.asarray(self).__reduce__()


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a store is made of: these files, a part of their texts, and a digest of it that costs time to compute.

    place: the folder for what is kept. kind: what that is, in one word.
    """

    place: Path
    files: Sequence[str]
    part: Mapping[str, Any]
    fingerprint: Callable[[], str]
    kind: str = TOKENS

    def stamps(self) -> dict[str, list[int]]:
        """Size and time of change of each file: while these are the same, so is the text."""
        found = {str(Path(file).expanduser().absolute()): Path(file).expanduser().stat() for file in self.files}
        return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in found.items()}

    @property
    def bytes(self) -> int:
        """Of the files together."""
        return sum(size for size, _ in self.stamps().values())

    def remembered(self, name: str, compute: Callable[[], Any]) -> Any:
        """A number or a text that is computed once for these files and this part."""
        path = self.place / f"{name}-{digest(dict(self.part))}.json"
        stamps = self.stamps()
        if (stored := read_or_set_aside(path, dict[str, Any])) and stored.get("files") == stamps and "value" in stored:
            return stored["value"]
        value = compute()
        with writing(self.place):
            self.place.mkdir(parents=True, exist_ok=True)
            write_json(path, {"files": stamps, "value": value})
        return value


def origin_of(
    files: Sequence[str], part: Mapping[str, Any], fingerprint: Callable[[], str], kind: str = TOKENS
) -> Origin | None:
    """The origin of large files; None for little ones, and for those that cannot be read, as reading them says."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        origin = Origin(place_beside(files, kind), files, part, fingerprint, kind)
        if origin.bytes >= SMALL:
            return origin
    return None


def digest(value: Any) -> str:
    """The first 16 hexadecimal digits of a digest of JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def place_beside(files: Sequence[str], kind: str = TOKENS) -> Path:
    """The folder for what is made of some files: beside the first, or in the folder that `--cache` has named."""
    first = Path(files[0]).expanduser().absolute()
    name = first.name if len(files) == 1 else f"{first.name}-{digest([os.path.abspath(file) for file in files])}"
    if cache := os.environ.get(CACHE_VARIABLE):
        return Path(cache).expanduser().absolute() / f"{name}-{digest(str(first))}.{kind}"
    return first.with_name(f"{name}.{kind}")


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turns the failure to write a store into a sentence with a way out."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{place} cannot be written ({error.strerror or error}): make room or give --cache=FOLDER another place"
        ) from error


def arrays_of(
    chunks: Callable[[], Iterable[Any]],
    encode: Encode,
    dtypes: Mapping[str, np.dtype],
    origin: Origin | None,
    maker: Any,
    sound: Callable[[Arrays], bool],
) -> Arrays:
    """The concatenated arrays of all chunks: mapped from the origin's store, which is made where it is missing.

    chunks: always the same ones, in the same order. dtypes: of each array that `encode` gives. maker: JSON of what
    `encode` depends on, such as a vocabulary. sound: whether arrays are such as `encode` gives, which is asked of a
    store whoever wrote it; another is made anew. Without an origin the arrays are made in memory and not kept.
    """
    if origin is None:
        parts = [arrays for arrays, _ in _encoded(chunks(), encode)]
        return {
            name: np.concatenate([np.zeros(0, dtype), *(part[name] for part in parts)], dtype=dtype, casting="unsafe")
            for name, dtype in dtypes.items()
        }
    name = digest([FORMAT, maker, dict(origin.part), {name: np.dtype(dtype).str for name, dtype in dtypes.items()}])
    store = origin.place / name
    if (arrays := _opened(store, dtypes, origin)) is not None:
        if sound(arrays):
            return arrays
        set_aside(store / "store.json", f"{store} does not hold {origin.kind} of these data")
    with writing(origin.place):
        origin.place.mkdir(parents=True, exist_ok=True)
    lock = origin.place / f".{name}.lock"
    if who := holder(lock):
        print(f"{store}: waiting for {who}, which makes this", flush=True)
    with locked(lock):
        if (arrays := _opened(store, dtypes, origin)) is None:
            with writing(store):
                _make(store, chunks, encode, dtypes, origin)
            arrays = _opened(store, dtypes, origin)
    if arrays is None:
        raise UserError(f"{store} changed while it was made, or its data did: leave both alone and start again")
    return arrays


def _opened(store: Path, dtypes: Mapping[str, np.dtype], origin: Origin) -> Arrays | None:
    """The arrays of a finished store of this text; None where there is none."""
    notes = read_or_set_aside(store / "store.json", dict[str, Any])
    if notes is None:
        return None
    if notes.get("files") != (stamps := origin.stamps()):
        if notes.get("fingerprint") != origin.fingerprint():
            return None
        with contextlib.suppress(OSError):  # a store that only others may write is compared again next time
            write_json(store / "store.json", notes | {"files": stamps})  # moved or touched, the same text
    if not fits(counts := notes.get("counts"), dict[str, int]) or not _whole(store, counts, dtypes):
        return None
    return {name: Mapped(store / name, dtype) if counts[name] else np.zeros(0, dtype) for name, dtype in dtypes.items()}


def highest(array: np.ndarray) -> int:
    """The largest element, read in parts; -1 of none."""
    return max((int(array[start : start + BLOCK].max()) for start in range(0, len(array), BLOCK)), default=-1)


def _whole(folder: Path, counts: Mapping[str, int], dtypes: Mapping[str, np.dtype]) -> bool:
    """Whether each array's file has at least the bytes of this number of elements."""
    files = {name: folder / name for name in dtypes}
    return counts.keys() == dtypes.keys() and all(
        file.is_file() and file.stat().st_size >= counts[name] * np.dtype(dtypes[name]).itemsize
        for name, file in files.items()
    )


def _make(
    store: Path,
    chunks: Callable[[], Iterable[Any]],
    encode: Encode,
    dtypes: Mapping[str, np.dtype],
    origin: Origin,
) -> None:
    partial = store.with_name(f"{store.name}.partial")
    stamps, fingerprint = origin.stamps(), origin.fingerprint()
    done = _resumed(partial, dtypes, fingerprint)
    counts, skipped = dict(done["counts"]), done["chunks"]
    started, num_bytes, number = time.monotonic(), 0, skipped
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context((partial / name).open("ab")) for name in dtypes}
        bar = stack.enter_context(_progress())
        task = bar.add_task(f"{origin.kind} of {origin.place.stem}", total=origin.bytes, completed=done["bytes"])

        def save() -> None:
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
            notes = {"chunks": number, "counts": counts, "bytes": done["bytes"] + num_bytes, "fingerprint": fingerprint}
            write_json(partial / "progress.json", notes)

        for number, (arrays, size) in enumerate(_encoded(chunks(), encode, skipped), skipped + 1):
            for name, array in arrays.items():
                files[name].write(np.ascontiguousarray(array, dtypes[name]))
                counts[name] += len(array)
            num_bytes += size
            bar.update(task, advance=size)
            if number % SAVE_EVERY == 0:
                save()
        save()
    seconds = time.monotonic() - started
    print(
        f"{origin.kind} of {num_bytes / 1e6:,.1f} MB made in {seconds:.1f} s ({num_bytes / 1e6 / seconds:.1f} MB/s), "
        f"kept in {store}",
        flush=True,
    )
    if origin.stamps() != stamps:
        raise UserError(f"{origin.place.stem} was changed while it was read: leave it alone and start again")
    (partial / "progress.json").unlink()
    write_json(partial / "store.json", {"files": stamps, "fingerprint": fingerprint, "counts": counts})
    shutil.rmtree(store, ignore_errors=True)  # of a text that has changed since; who has it open keeps it
    partial.rename(store)


def _resumed(partial: Path, dtypes: Mapping[str, np.dtype], fingerprint: str) -> dict[str, Any]:
    """What of a store is there already, its files cut back to that."""
    done = read_or_set_aside(partial / "progress.json", dict[str, Any]) if partial.exists() else None
    numbers = done and {name: done.get(name) for name in ("chunks", "bytes")}
    if done and done.get("fingerprint") == fingerprint and fits(numbers, dict[str, int]):
        counts = done.get("counts")
        if fits(counts, dict[str, int]) and _whole(partial, counts, dtypes):
            for name, dtype in dtypes.items():
                os.truncate(partial / name, counts[name] * np.dtype(dtype).itemsize)
            return done
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return {"chunks": 0, "bytes": 0, "counts": dict.fromkeys(dtypes, 0)}


def _encoded(chunks: Iterable[Any], encode: Encode, skipped: int = 0) -> Iterator[tuple[Arrays, int]]:
    """The encoded chunks in order behind the first `skipped`; a few are encoded ahead of the one that is asked for."""
    waiting = collections.deque()
    with ThreadPoolExecutor(AHEAD) as pool:
        for number, chunk in enumerate(chunks):
            if number < skipped:
                continue
            waiting.append(pool.submit(encode, chunk))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _progress() -> rich.progress.Progress:
    console = Console(file=sys.stderr)
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.DownloadColumn(),
        rich.progress.TransferSpeedColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    return rich.progress.Progress(*columns, console=console, disable=not console.is_terminal)
