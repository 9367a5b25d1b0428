"""Starting from the parameters of another model: fine-tuning with a new head."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from research.errors import UserError
from research.layers.positions import resample_positions
from research.layers.scan import stacked, unstacked
from research.parallel.sharding import by_path, path_names
from research.pretrained.convert import as_float32


@dataclasses.dataclass(frozen=True)
class Transfer:
    """The config section `transfer`.

    source: the folder of a run, or a .safetensors file with our names ("encoder/layer_0/feed_forward/up/kernel") or
    timm's. new: patterns of the parameters that start afresh. drop: patterns of what the source has and the model does
    not need, such as a decoder. Learned positions are resampled for other image sizes. Layers may be scanned in the
    source or in the model alone: `drop` then sees the single ones (`layer_0`, ...).
    """

    source: str
    new: tuple[str, ...] = (r"^head/",)
    drop: tuple[str, ...] = ()

    def __post_init__(self):
        for name in ("new", "drop"):
            for pattern in getattr(self, name):
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise UserError(f"transfer.{name} {pattern!r} is not a regular expression: {error}") from error


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors file by their paths. Raises UserError where it cannot be read."""
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise ValueError("neither a file nor a folder")
        return load_file(path)
    except MemoryError:
        raise
    except Exception as error:  # the library has errors of its own, and NumPy's for types that NumPy lacks
        words = " ".join(str(error).split())[:120]
        raise UserError(
            f"transfer.source {path} cannot be read ({words}): give a run or a .safetensors file"
        ) from error


def transferred(transfer: Transfer, given: Mapping[str, Any], abstract: Sequence[Any]) -> dict[str, Any]:
    """The given arrays that the model shall start with, by their paths.

    abstract: the model's parameters and statistics. Raises UserError for one that is neither new nor given in its
    shape, for one that is given and neither the model's nor new nor dropped, for numbers that are no weights, and for a
    pattern that matches none.
    """
    shapes = {path: leaf for tree in abstract for path, leaf in by_path(tree).items()}
    given = unstacked(given, shapes)
    for name, patterns, paths in (("new", transfer.new, shapes), ("drop", transfer.drop, given)):
        for pattern in patterns:
            if not any(re.search(pattern, path) for path in paths):
                like = f": the paths look like {next(iter(paths))!r}" if paths else ""
                raise UserError(f"transfer.{name} {pattern!r} matches no parameter{like}")
    given = {path: array for path, array in given.items() if not _matches(transfer.drop, path)}
    given = stacked(given, shapes)
    left = [path for path in given if path not in shapes and not _matches(transfer.new, path)]
    if left:
        named = ", ".join(repr(path[:80]) for path in left[:3]) + (", ..." if len(left) > 3 else "")
        raise UserError(
            f"transfer.source {transfer.source} has {len(left)} parameters that the model lacks ({named}): use the "
            "model it was trained with, or add patterns for them to transfer.drop"
        )
    kept = {path: leaf for path, leaf in shapes.items() if not _matches(transfer.new, path)}
    given = {path: _resampled(path, as_float32(path, given[path]), shapes) for path in kept if path in given}
    for path, leaf in kept.items():
        there = tuple(given[path].shape) if path in given else "absent"
        if there != tuple(leaf.shape):
            raise UserError(
                f"{path} is {there} in {transfer.source} and {tuple(leaf.shape)} here: use the model it was trained "
                "with, or add a pattern for it to transfer.new"
            )
    return given


def _matches(patterns: Sequence[str], path: str) -> bool:
    return any(re.search(pattern, path) for pattern in patterns)


def _resampled(path: str, array: Any, shapes: Mapping[str, Any]) -> Any:
    """A position table for as many patches as the model's, where both are squares."""
    wanted = shapes.get(path)
    if path != "position_embedding" or wanted is None or array.shape == wanted.shape:
        return array
    if not len(wanted.shape) == array.ndim == 2 or array.shape[1] != wanted.shape[1]:
        return array
    tokens, side = wanted.shape[0], math.isqrt(wanted.shape[0])
    return resample_positions(jnp.asarray(array), (side, side), tokens - side * side)


def with_given(params: Any, given: Mapping[str, Any]) -> Any:
    """The parameters with those at the given paths replaced."""
    return jax.tree.map(lambda path, leaf: given[path].astype(leaf.dtype) if path in given else leaf,
                        path_names(params), params)  # fmt: skip
