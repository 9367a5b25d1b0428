"""Arrays that are read one by one, each on its devices before the next one is read."""

import math
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from research.errors import UserError
from research.layers.scan import scanned_place
from research.parallel.sharding import by_path, path_names

ALIGNMENT = 64
"""Bytes that XLA asks of memory that it takes over."""
STRIP = 64
"""Numbers of a row that are copied before the next row's."""


def placed(arrays: Iterable[tuple[str, np.ndarray]], abstract: Any) -> Any:
    """The arrays in the tree of `abstract`: collections of shapes, dtypes and shardings, whose layers may be scanned.

    Memory holds, beyond what the devices do, one array, or all layers of one where they are scanned. Raises UserError
    where an array is missing.
    """
    wanted, found = {_bare(path): leaf for path, leaf in by_path(abstract).items()}, {}
    stacks: dict[str, tuple[np.ndarray, set[int]]] = {}
    for path, array in arrays:
        if path in wanted:
            if array.shape != (shape := tuple(wanted[path].shape)):
                raise UserError(
                    f"{path} is {array.shape} in the weights and {shape} in this run's model, whose images have "
                    "another size: give the size of config.json in preprocessor_config.json"
                )
            found[path] = _on_devices(array, wanted[path])
            continue
        if (place := scanned_place(path)) is None or place[0] not in wanted:
            continue
        scanned, number = place
        stack, done = stacks.setdefault(scanned, (_aligned(wanted[scanned].shape, wanted[scanned].dtype), set()))
        stack[number] = array
        done.add(number)
        if len(done) == len(stack):
            found[scanned] = _on_devices(stack, wanted[scanned], own=True)
            del stacks[scanned], stack
    if lost := sorted(wanted.keys() - found.keys()):
        raise UserError(f"{len(lost)} arrays of the model are missing ({lost[0]}, ...): give the weights of this model")
    return jax.tree.map(lambda path, _: found[_bare(path)], path_names(abstract), abstract)


def _bare(path: str) -> str:
    """A path without its collection, such as "params"."""
    return path.partition("/")[2]


def _on_devices(array: np.ndarray, leaf: jax.ShapeDtypeStruct, *, own: bool = False) -> jax.Array:
    """Each device gets its part of the array, and no device all of it unless its sharding says so.

    own: the array is nobody else's, so that a device of the CPU may keep it as it is; otherwise it may be a file.
    """

    def part(index: Any) -> np.ndarray:
        if own and array[index].shape == array.shape:
            return array
        return _copied(array[index], leaf.dtype)

    return jax.make_array_from_callback(tuple(leaf.shape), leaf.sharding, part)


def _copied(array: np.ndarray, dtype: Any) -> np.ndarray:
    """A copy of an array that may be transposed, in strips: whole rows of both would not fit into the caches."""
    copy = _aligned(array.shape, dtype)
    if array.flags.c_contiguous:
        copy[...] = array
    else:
        for start in range(0, array.shape[-1], STRIP):
            copy[..., start : start + STRIP] = array[..., start : start + STRIP]
    return copy


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An empty array that begins where a device of the CPU can take it over without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)
