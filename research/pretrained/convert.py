"""Published weights in our names: what every family of models shares.

A family's file has `rename(name, array)`, which yields our paths and arrays for one of timm's; `convert` applies it.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from research.errors import UserError

Renamed = Iterator[tuple[str, np.ndarray]]


def convert(weights: Mapping[str, np.ndarray], rename: Callable[[str, np.ndarray], Renamed]) -> dict[str, np.ndarray]:
    """Arrays of float32 by our paths, parameters and statistics alike; PyTorch's counts of batches are left out.

    A moving `variance` becomes the `mean_square` that our `BatchNorm` keeps. Raises UserError for a name that the
    family does not have, for two of one path, and for what `as_float32` refuses.
    """
    converted: dict[str, np.ndarray] = {}
    for name, array in weights.items():
        for path, renamed in [] if name.endswith("num_batches_tracked") else _renamed(name, array, rename):
            if path in converted:
                raise UserError(f"transfer.source holds {path} twice, the second time as {name!r}: remove one of them")
            converted[path] = as_float32(name, renamed)
    for path in [path for path in converted if path.endswith("norm/variance")]:
        prefix = path.removesuffix("variance")
        if f"{prefix}mean" not in converted:
            raise UserError(f"transfer.source holds {path} without its mean: use the file as it was published")
        converted[f"{prefix}mean_square"] = converted.pop(path) + np.square(converted[f"{prefix}mean"])
    return converted


def _renamed(name: str, array: np.ndarray, rename: Callable[[str, np.ndarray], Renamed]) -> list:
    try:
        return list(rename(name, array))
    except (LookupError, ValueError, TypeError) as error:  # no such block, or not as many dimensions
        raise UserError(
            f"transfer.source holds {name!r} of shape {array.shape}, which is not of such a model in timm's names: "
            "use the weights of the model that the config builds"
        ) from error


def as_float32(name: str, array: Any) -> np.ndarray:
    """An array of a weight file. Raises UserError for whole numbers, 8 bits, NaN, infinity and what float32 lacks."""
    array = np.asarray(array)
    if array.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
        raise UserError(
            f"transfer.source holds {name!r} as {array.dtype.name}: use weights of float32, float16 or bfloat16"
        )
    with np.errstate(over="ignore"):
        converted = array.astype(np.float32, copy=False)
    if not np.isfinite(converted).all():
        kind = "NaN or infinity" if not np.isfinite(array).all() else "numbers beyond float32"
        raise UserError(f"transfer.source holds {kind} in {name!r}: use weights of finite numbers")
    return converted


def leaf(path: str, kind: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """One array of a layer at our path: `kind` is PyTorch's name of it, such as weight or running_var.

    Matrices are transposed, convolution kernels brought from [out, in, height, width] to [height, width, in, out];
    what is below a path that ends in `norm` is a scale.
    """
    if kind == "weight" and array.ndim == 4:
        return f"{path}/kernel", array.transpose(2, 3, 1, 0)
    if kind == "weight" and array.ndim == 2:
        return f"{path}/kernel", array.T
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "variance"}
    return f"{path}/{names[kind]}", array


def attention_input(path: str, kind: str, array: np.ndarray, num_heads: int) -> Renamed:
    """The joint projection of query, key and value as our three, with their heads apart."""
    for name, part in zip(("query", "key", "value"), np.split(array, 3), strict=True):
        if kind == "weight":
            yield f"{path}/{name}/kernel", part.T.reshape(part.shape[1], num_heads, -1)
        else:
            yield f"{path}/{name}/bias", part.reshape(num_heads, -1)


def attention_output(path: str, kind: str, array: np.ndarray, num_heads: int) -> tuple[str, np.ndarray]:
    """The projection of the heads' values."""
    if kind == "weight":
        return f"{path}/out/kernel", array.T.reshape(num_heads, -1, array.shape[0])
    return f"{path}/out/bias", array


def split(name: str) -> tuple[str, str]:
    """("layer1.0.conv1", "weight") of "layer1.0.conv1.weight"."""
    path, _, kind = name.rpartition(".")
    return path, kind


def substitute(path: str, rules: Mapping[str, str]) -> str:
    """The path after the first rule (pattern of the whole path -> replacement) that fits it."""
    for pattern, replacement in rules.items():
        if re.fullmatch(pattern, path):
            return re.sub(pattern, replacement, path)
    raise KeyError(path)
