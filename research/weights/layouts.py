"""How arrays lie in a published file: a small closed set of layouts, each of which is used in both directions.

PyTorch has [out, in] where we have [in, out], and flattens heads. `ours` is told the shapes of our arrays, from which
the number of heads follows; `theirs` needs nothing but the arrays.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

type Arrays = Sequence[Any]
type Shapes = Sequence[tuple[int, ...]]


class Layout(NamedTuple):
    """ours(their arrays, the shapes of ours) -> our arrays; theirs(our arrays) -> their arrays."""

    name: str
    ours: Callable[[Arrays, Shapes], Arrays]
    theirs: Callable[[Arrays], Arrays]


def _one(name: str, ours: Callable[[Any, tuple[int, ...]], Any], theirs: Callable[[Any], Any]) -> Layout:
    """A layout of one array."""

    def to_ours(arrays: Arrays, shapes: Shapes) -> Arrays:
        return [ours(arrays[0], shapes[0])]

    return Layout(name, to_ours, lambda arrays: [theirs(arrays[0])])


def _joint(part: Layout, axis: int) -> Layout:
    """Query, key and value, each in the layout `part`, one after the other along an axis of one array."""

    def ours(arrays: Arrays, shapes: Shapes) -> Arrays:
        parts = np.split(arrays[0], len(shapes), axis=axis)
        return [part.ours([one], [shape])[0] for one, shape in zip(parts, shapes, strict=True)]

    def theirs(arrays: Arrays) -> Arrays:
        return [np.concatenate([part.theirs([one])[0] for one in arrays], axis=axis)]

    return Layout(f"joint {part.name}", ours, theirs)


SAME = _one("same", lambda a, shape: a, lambda a: a)
TRANSPOSE = _one("transpose", lambda a, shape: a.T, lambda a: a.T)
CONVOLUTION = _one("convolution", lambda a, shape: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1))
"""[out, in, height, width] and [height, width, in, out]."""
POINTWISE = _one("pointwise convolution", lambda a, shape: a[:, :, 0, 0].T, lambda a: a.T[:, :, None, None])
"""A convolution of 1 x 1 pixel, which is a projection here."""
HEADS_IN = _one("heads in", lambda a, shape: a.T.reshape(shape), lambda a: a.reshape(a.shape[0], -1).T)
"""[heads · size, width] and [width, heads, size]: what makes queries, keys and values."""
HEADS_OUT = _one("heads out", lambda a, shape: a.T.reshape(shape), lambda a: a.reshape(-1, a.shape[-1]).T)
"""[width, heads · size] and [heads, size, width]: what takes the heads' values."""
HEADS_BIAS = _one("heads bias", lambda a, shape: a.reshape(shape), lambda a: a.reshape(-1))
HEADS_IN_AS_OURS = _one("heads in, not transposed", lambda a, s: a.reshape(s), lambda a: a.reshape(a.shape[0], -1))
HEADS_OUT_AS_OURS = _one("heads out, not transposed", lambda a, s: a.reshape(s), lambda a: a.reshape(-1, a.shape[-1]))
"""GPT-2's projections are [in, out] already."""
JOINT = _joint(HEADS_IN, 0)
JOINT_BIAS = _joint(HEADS_BIAS, 0)
JOINT_DENSE = _joint(TRANSPOSE, 0)
"""Of kernels and of biases, whose transpose is themselves."""
JOINT_AS_OURS = _joint(HEADS_IN_AS_OURS, 1)


def _squares_out(kernel: Any) -> Any:
    side = math.isqrt(kernel.shape[0] // kernel.shape[1])
    return kernel.reshape(side, side, -1, kernel.shape[1]).transpose(3, 2, 0, 1)


NUMBER = _one("number", lambda a, shape: a.reshape(shape), lambda a: a.reshape(1))
"""A number there in an array of one."""


def at_most(highest: float, part: Layout = SAME) -> Layout:
    """What is written is held at `highest`, as our model holds it where it is used."""
    return Layout(f"{part.name}, at most", part.ours, lambda arrays: part.theirs([np.minimum(arrays[0], highest)]))


SQUARES = _one("squares", lambda a, shape: a.transpose(2, 3, 1, 0).reshape(shape), _squares_out)
"""A convolution whose stride is its size, [out, in, side, side], and a projection of whole squares as wide as `in`."""


def _levels_out(kernel: Any) -> Any:
    return np.concatenate(np.split(kernel, LEVELS, axis=2)[::-1], axis=2).transpose(3, 2, 0, 1)


def _levels_in(weight: Any, shape: tuple[int, ...]) -> Any:
    return np.concatenate(np.split(weight.transpose(2, 3, 1, 0), LEVELS, axis=2)[::-1], axis=2)


LEVELS = 4
CONVOLUTION_OF_LEVELS = _one("convolution of levels", _levels_in, _levels_out)
"""SegFormer's: what it joins comes from the coarsest of four levels to the finest there, the other way round here."""
SQUEEZE = _one("squeeze", lambda a, shape: a[0], lambda a: a[None])
SQUEEZE_TWICE = _one("squeeze twice", lambda a, shape: a[0, 0], lambda a: a[None, None])
GRID = _one("grid", lambda a, shape: a.reshape(shape), lambda a: a.reshape(-1, a.shape[-1]))
"""[rows · columns, heads] and [rows, columns, heads]: tables of relative positions."""
GRID_LAST = _one("grid last", lambda a, shape: a.T.reshape(shape), lambda a: a.reshape(-1, a.shape[-1]).T)


def _moving(arrays: Arrays, shapes: Shapes) -> Arrays:
    mean, variance = (np.asarray(array, np.float64) for array in arrays)
    return [arrays[0], (variance + mean**2).astype(np.float32)]


def _variance(arrays: Arrays) -> Arrays:
    mean, mean_square = (np.asarray(array, np.float64) for array in arrays)
    return [arrays[0], np.maximum(mean_square - mean**2, 0).astype(np.float32)]


MOVING_VARIANCE = Layout("moving variance", _moving, _variance)
"""Mean and variance, and the mean and mean square that our `BatchNorm` keeps; in float64, which keeps all digits."""


def _split_heads(arrays: Arrays, shapes: Shapes) -> Arrays:
    """[heads · (key + key + value), width], or without width, one head after the other."""
    heads, sizes = shapes[0][-2], [shape[-1] for shape in shapes]
    by_head = arrays[0].reshape(heads, sum(sizes), *arrays[0].shape[1:])
    parts = np.split(by_head, np.cumsum(sizes)[:-1], axis=1)
    return [np.moveaxis(part, -1, 0) if part.ndim == 3 else part for part in parts]


def _join_heads(arrays: Arrays) -> Arrays:
    parts = [np.moveaxis(array, 0, -1) if array.ndim == 3 else array for array in arrays]
    joint = np.concatenate(parts, axis=1)
    return [joint.reshape(-1, *joint.shape[2:])]


JOINT_BY_HEAD = Layout("joint by head", _split_heads, _join_heads)
"""EfficientFormer's: query, key and value of one head after those of another."""
