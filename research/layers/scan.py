"""Weights of scanned layers as those of single ones and back: `layers/...` with a leading axis, `layer_0/...`, ...

Arrays are named by their paths ("encoder/layer_0/feed_forward/up/kernel"), as in files of weights.
"""

import re
from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np

from research.parallel.sharding import SCANNED

_SCANNED = re.compile(rf"(?P<stack>(?:.*/)?){SCANNED}/(?P<rest>.*)")
_SINGLE = re.compile(r"(?P<stack>(?:.*/)?)layer_(?P<number>\d+)/(?P<rest>.*)")


def unstacked(arrays: Mapping[str, Any], wanted: Container[str]) -> dict[str, Any]:
    """The arrays, those of scanned layers cut into single ones wherever `wanted` names a `layer_0` in their place."""
    result: dict[str, Any] = {}
    for path, array in arrays.items():
        found = _SCANNED.fullmatch(path)
        if found and array.ndim and f"{found['stack']}layer_0/{found['rest']}" in wanted:
            result |= {f"{found['stack']}layer_{number}/{found['rest']}": one for number, one in enumerate(array)}
        else:
            result[path] = array
    return result


def stacked(arrays: Mapping[str, Any], wanted: Container[str]) -> dict[str, Any]:
    """The arrays, those of single layers stacked wherever `wanted` names scanned `layers` in their place.

    Layers that are not counted from 0 without a gap, or that differ in shape, stay as they are.
    """
    result = dict(arrays)
    groups: dict[str, dict[int, str]] = {}
    for path in arrays:
        if found := _SINGLE.fullmatch(path):
            scanned = f"{found['stack']}{SCANNED}/{found['rest']}"
            groups.setdefault(scanned, {})[int(found["number"])] = path
    for scanned, paths in groups.items():
        complete = sorted(paths) == list(range(len(paths)))
        if scanned in wanted and complete and len({arrays[path].shape for path in paths.values()}) == 1:
            result[scanned] = np.stack([result.pop(paths[number]) for number in range(len(paths))])
    return result


def picked(arrays: Mapping[str, Any], layers: Sequence[int]) -> dict[str, Any]:
    """The arrays, of every stack these layers alone, in this order and counted anew from 0.

    Raises IndexError with the number of layers of a stack that has fewer than are picked from.
    """
    result: dict[str, Any] = {}
    depths: dict[str, int] = {}
    for path, array in arrays.items():
        if found := _SCANNED.fullmatch(path):
            depths[found["stack"]] = len(array)
            if max(layers) < len(array):
                result[path] = array[np.array(layers)]
        elif found := _SINGLE.fullmatch(path):
            number = int(found["number"])
            depths[found["stack"]] = max(depths.get(found["stack"], 0), number + 1)
            for place in (place for place, layer in enumerate(layers) if layer == number):
                result[f"{found['stack']}layer_{place}/{found['rest']}"] = array
        else:
            result[path] = array
    if (least := min(depths.values(), default=0)) <= max(layers):
        raise IndexError(least)
    return result


def scanned_place(path: str) -> tuple[str, int] | None:
    """("decoder/layers/up/kernel", 3) of "decoder/layer_3/up/kernel"; None for a path outside of layers."""
    if found := _SINGLE.fullmatch(path):
        return f"{found['stack']}{SCANNED}/{found['rest']}", int(found["number"])
    return None
