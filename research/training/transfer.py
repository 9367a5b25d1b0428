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
from safetensors import SafetensorError
from safetensors.numpy import load_file

from research.errors import UserError
from research.layers.positions import resample_positions
from research.parallel.sharding import by_path, path_names


@dataclasses.dataclass(frozen=True)
class Transfer:
    """The config section `transfer`.

    source: the folder of a run, or a .safetensors file with our names ("encoder/layer_0/feed_forward/up/kernel") or
    timm's. new: patterns of the parameters that start afresh. Learned positions are resampled for other image sizes.
    """

    source: str
    new: tuple[str, ...] = (r"^head/",)


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors file by their paths. Raises UserError where it cannot be read."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"transfer.source {path} cannot be read ({error}): give a run or a .safetensors file"
        ) from error


def transferred(transfer: Transfer, given: Mapping[str, Any], abstract: Sequence[Any]) -> dict[str, Any]:
    """The given arrays that the model shall start with, by their paths.

    abstract: the model's parameters and statistics. Raises UserError for one that is neither new nor given in its
    shape, and for a pattern that matches none.
    """
    shapes = {path: leaf for tree in abstract for path, leaf in by_path(tree).items()}
    given = {path: _resampled(path, array, shapes) for path, array in given.items()}
    for pattern in transfer.new:
        if not any(re.search(pattern, path) for path in shapes):
            raise UserError(
                f"transfer.new {pattern!r} matches no parameter: the paths look like {next(iter(shapes))!r}"
            )
    kept = {path: leaf for path, leaf in shapes.items() if not any(re.search(new, path) for new in transfer.new)}
    for path, leaf in kept.items():
        there = tuple(given[path].shape) if path in given else "absent"
        if there != tuple(leaf.shape):
            raise UserError(
                f"{path} is {there} in {transfer.source} and {tuple(leaf.shape)} here: use the model it was trained "
                "with, or add a pattern for it to transfer.new"
            )
    return {path: given[path] for path in kept}


def _resampled(path: str, array: Any, shapes: Mapping[str, Any]) -> Any:
    """A position table for as many patches as the model's, where both are squares."""
    wanted = shapes.get(path)
    if path != "position_embedding" or wanted is None or len(wanted.shape) != 2 or array.shape == wanted.shape:
        return array
    tokens, side = wanted.shape[0], math.isqrt(wanted.shape[0])
    return resample_positions(jnp.asarray(array), (side, side), tokens - side * side)


def with_given(params: Any, given: Mapping[str, Any]) -> Any:
    """The parameters with those at the given paths replaced."""
    return jax.tree.map(lambda path, leaf: given[path].astype(leaf.dtype) if path in given else leaf,
                        path_names(params), params)  # fmt: skip
