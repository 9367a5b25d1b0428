"""Weight files: safetensors, whole or in shards, and the .npz files of NumPy. They are data: nothing is unpickled.

Arrays are read when they are asked for, one at a time: a file may be larger than memory.
"""

import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import safe_open

from research.errors import UserError
from research.files import read_json

ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""What PyTorch unpickles, which can run any code."""
LARGEST_RATIO = 20
"""Of what an .npz file unpacks to over its size; weights can hardly be compressed."""

_DTYPES = {"BOOL": np.dtype(bool), "BF16": np.dtype(jnp.bfloat16)}
_DTYPES |= {f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)}
_DTYPES |= {f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)}
_DTYPES |= {f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)}


class Place(NamedTuple):
    """Where an array lies: the file, the first byte in it (or the member's name), its dtype and shape."""

    path: Path
    start: int | str
    dtype: Any
    shape: tuple[int, ...]


class Arrays(Mapping[str, np.ndarray]):
    """The arrays of one or several files by their names, each read when it is asked for."""

    def __init__(self, places: Mapping[str, Place]):
        self.places = dict(places)

    def __getitem__(self, name: str) -> np.ndarray:
        place = self.places[name]
        if isinstance(place.start, str):
            with np.load(place.path, allow_pickle=False) as file:
                return file[place.start]
        if 0 in place.shape or not place.shape:  # which cannot be mapped
            count = math.prod(place.shape)
            return np.fromfile(place.path, place.dtype, count, offset=place.start).reshape(place.shape)
        return np.memmap(place.path, place.dtype, "r", place.start, place.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Their shapes, for which nothing is read."""
        return {name: place.shape for name, place in self.places.items()}

    @property
    def paths(self) -> list[Path]:
        """The files, each once."""
        return sorted({place.path for place in self.places.values()})


def read_arrays(path: Path) -> Arrays:
    """The arrays of a weight file, or of a folder that holds `model.safetensors` or its shards.

    Raises UserError where there is none, where one is damaged or missing, and for what would have to be unpickled.
    """
    if path.is_dir():
        return _folder(path)
    if path.suffix in PICKLED:
        raise _pickled(path)
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise ValueError("neither a file nor a folder")
        return Arrays(_npz(path) if path.suffix == ".npz" else _safetensors(path))
    except (MemoryError, UserError):
        raise
    except Exception as error:  # the library has errors of its own
        words = " ".join(str(error).split())[:120]
        raise UserError(f"{path} cannot be read ({words}): give a run or a .safetensors file") from error


def _folder(folder: Path) -> Arrays:
    if (folder / ONE).exists():
        return read_arrays(folder / ONE)
    if not (folder / INDEX).exists():
        for file in sorted(folder.glob("*")):
            if file.suffix in PICKLED:
                raise _pickled(file)
        raise UserError(f"{folder} has no {ONE}: give the folder of a published model")
    index = read_json(folder / INDEX)
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise UserError(f"{folder / INDEX} does not say which file holds which array: restore it from a copy")
    places: dict[str, Place] = {}
    for name in sorted({*shards.values()}):
        shard = folder / name
        if not re.fullmatch(r"[\w.-]+\.safetensors", name):
            raise UserError(
                f"{folder / INDEX} names {name!r}, which is not a .safetensors file of its folder: restore the index"
            )
        if not shard.exists():
            raise UserError(f"{folder} lacks {name}, which its index names: fetch the missing file")
        places |= read_arrays(shard).places
    if lost := sorted(shards.keys() - places.keys()):
        raise UserError(f"{folder / shards[lost[0]]} lacks {lost[0]}, which the index places there: fetch it again")
    return Arrays({name: places[name] for name in shards})


def _pickled(path: Path) -> UserError:
    return UserError(
        f"{path} would have to be unpickled, which can run any code: fetch the model's .safetensors file, or make one "
        "where PyTorch is, with safetensors.torch.save_file(torch.load(path, weights_only=True), 'model.safetensors')"
    )


def _safetensors(path: Path) -> dict[str, Place]:
    with safe_open(path, "numpy"):  # the library checks that the header is valid and the file complete
        pass
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    places = {}
    for name, array in header.items():
        if array["dtype"] not in _DTYPES:
            raise ValueError(f"{name[:60]!r} is {array['dtype']}, which NumPy lacks")
        start = 8 + size + array["data_offsets"][0]
        places[name] = Place(path, start, _DTYPES[array["dtype"]], tuple(array["shape"]))
    return places


def _npz(path: Path) -> dict[str, Place]:
    places = {}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > LARGEST_RATIO * path.stat().st_size:
            raise ValueError("it unpacks to far more than weights would")
        for member in members:
            name = re.sub(r"\.npy$", "", member.filename)
            with archive.open(member) as file:
                form, first = np.lib.format, np.lib.format.read_magic(file) == (1, 0)
                shape, _, dtype = (form.read_array_header_1_0 if first else form.read_array_header_2_0)(file)
            if dtype.hasobject:
                raise ValueError(f"{name[:60]!r} holds objects that would have to be unpickled")
            places[name] = Place(path, name, dtype, shape)
    return places


def as_float32(name: str, array: Any) -> np.ndarray:
    """An array of a weight file. Raises UserError for whole numbers, 8 bits, NaN, infinity and what float32 lacks."""
    array = np.asarray(array)
    if array.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
        raise UserError(f"the weights hold {name!r} as {array.dtype.name}: use weights of float32, float16 or bfloat16")
    with np.errstate(over="ignore"):
        converted = array.astype(np.float32, copy=False)
    if not np.isfinite(converted).all():
        kind = "NaN or infinity" if not np.isfinite(array).all() else "numbers beyond float32"
        raise UserError(f"the weights hold {kind} in {name!r}: use weights of finite numbers")
    return converted
