"""Convolution and batch normalisation, and folding the one into the other for inference."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from research.parallel.mesh import BATCH_AXES, on_mesh, ways

type Pads = Sequence[tuple[int, int]]
"""Pixels before and behind, for each axis of an image."""

MOMENTUM = 0.9
EPSILON = 1e-5


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last (Ioffe & Szegedy 2015).

    The collection "batch_stats" holds moving averages of `mean` and `mean_square`. Both are linear in the examples, so
    that the averages over devices and over micro-batches are exactly those of the whole batch; a moving variance is
    not. Statistics are float32 whatever the inputs' dtype.

    Fields:
        momentum: weight of the old average. scale_init: 0 makes the last norm of a residual branch start as nothing.
        frozen: nothing of it is trained; statistics, scale and bias, all in "batch_stats", stay as they were taken over
            from another model (as Carion et al. 2020, appendix A.4).
    """

    momentum: float = MOMENTUM
    epsilon: float = EPSILON
    scale_init: Callable = nn.initializers.ones
    frozen: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channels"], *, train: bool = False) -> Float[Array, "*batch channels"]:
        shape = (x.shape[-1],)
        if self.frozen:
            scale = self.variable("batch_stats", "scale", jnp.ones, shape).value
            bias = self.variable("batch_stats", "bias", jnp.zeros, shape).value
        else:
            scale, bias = self.param("scale", self.scale_init, shape), self.param("bias", nn.initializers.zeros, shape)
        old_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        old_square = self.variable("batch_stats", "mean_square", jnp.ones, shape)
        if train and not self.frozen:
            axes = tuple(range(x.ndim - 1))
            x32 = x.astype(jnp.float32)
            mean = x32.mean(axes)
            variance = jnp.square(x32 - mean).mean(axes)  # the difference of large squares would lose digits
            mean_square = variance + jnp.square(mean)
            if not self.is_initializing():
                old_mean.value = self.momentum * old_mean.value + (1 - self.momentum) * mean
                old_square.value = self.momentum * old_square.value + (1 - self.momentum) * mean_square
        else:
            mean = old_mean.value
            variance = jnp.maximum(old_square.value - jnp.square(mean), 0)
        factor, offset = _affine(scale, bias, mean, variance, self.epsilon)
        return x * factor.astype(x.dtype) + offset.astype(x.dtype)


def _affine(scale: Any, bias: Any, mean: Any, variance: Any, epsilon: float) -> tuple[Array, Array]:
    factor = scale * jax.lax.rsqrt(variance + epsilon)
    return factor, bias - mean * factor


class ConvNorm(nn.Module):
    """A convolution without bias and batch normalisation; with `folded`, the one convolution with bias they equal.

    Fields:
        groups: the number of groups that the channels are split into; -1 is one for each channel (depthwise).
        padding: pixels on each side, (kernel - 1) // 2 unless given.
    """

    features: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    padding: int | None = None
    use_bias: bool = False
    scale_init: Callable = nn.initializers.ones
    folded: bool = False
    frozen: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch rows columns features"]:
        pad = (self.kernel - 1) // 2 if self.padding is None else self.padding
        x = nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=[(pad, pad)] * 2,
            feature_group_count=x.shape[-1] if self.groups == -1 else self.groups,
            use_bias=self.use_bias or self.folded,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            promote_dtype=to_kernel_dtype,
            conv_general_dilated=convolution,
            name="conv",
        )(x)
        if self.folded:
            return x
        return BatchNorm(scale_init=self.scale_init, frozen=self.frozen, name="norm")(x, train=train)


def convolution(images: Array, kernel: Array, strides: Sequence[int], padding: Pads, **options: Any) -> Array:
    """Each device convolves its own images: left to itself, the compiler gets gradients of depthwise kernels wrong on
    several devices (jax 0.12)."""

    def convolve(images: Array, kernel: Array) -> Array:
        anywhere = functools.partial(jax.lax.conv_general_dilated, window_strides=strides, padding=padding, **options)
        groups = options["feature_group_count"]
        if 1 < groups == images.shape[-1] == kernel.shape[-1]:
            on_cpu = functools.partial(depthwise, strides=strides, padding=padding)
        elif kernel.shape[:2] == (1, 1) and groups == 1 and not np.any(padding):
            on_cpu = functools.partial(pointwise, strides=strides)
        else:
            return anywhere(images, kernel)
        return jax.lax.platform_dependent(images, kernel, cpu=on_cpu, default=anywhere)

    parts = ways(*BATCH_AXES)
    if not on_mesh() or len(images) % parts:
        return convolve(images, kernel)
    batch = PartitionSpec(BATCH_AXES)
    return jax.shard_map(convolve, in_specs=(batch, PartitionSpec()), out_specs=batch)(images, kernel)


def depthwise(
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "rows columns 1 channels"],
    strides: Sequence[int],
    padding: Pads,
) -> Float[Array, "batch height_out width_out channels"]:
    """Each channel convolved with a kernel of its own, as a sum of shifted images in float32.

    The compiler makes one loop of it, many times faster on a CPU than the convolution that it has for this.
    """
    padded = jnp.pad(images, [(0, 0), *padding, (0, 0)])
    ends = [size - length + 1 for size, length in zip(padded.shape[1:3], kernel.shape[:2], strict=True)]

    def tap(row: int, column: int) -> Array:
        shifted = padded[:, row : row + ends[0] : strides[0], column : column + ends[1] : strides[1]]
        return shifted.astype(jnp.float32) * kernel[row, column, 0]

    return sum(itertools.starmap(tap, np.ndindex(kernel.shape[:2])), jnp.float32(0)).astype(images.dtype)


def pointwise(
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "1 1 channels features"],
    strides: Sequence[int],
) -> Float[Array, "batch height_out width_out features"]:
    """A convolution with a kernel of one pixel, as the matrix product that it is.

    On a CPU its gradients are twice as fast as those of the compiler's convolution.
    """
    return images[:, :: strides[0], :: strides[1]] @ kernel[0, 0]


def fold(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of the same model with `folded`: what `ConvNorm` holds becomes one convolution.

    variables: {"params", "batch_stats"} of a model. The result gives the same outputs in evaluation and has no
    statistics left.
    """
    return {"params": _fold(variables["params"], variables["batch_stats"])}


def _fold(params: Mapping[str, Any], stats: Mapping[str, Any]) -> dict[str, Any]:
    if set(params) == {"conv", "norm"}:
        norm, conv = params["norm"], params["conv"]
        mean, mean_square = stats["norm"]["mean"], stats["norm"]["mean_square"]
        variance = jnp.maximum(mean_square - jnp.square(mean), 0)
        factor, offset = _affine(norm["scale"], norm["bias"], mean, variance, EPSILON)
        return {"conv": {"kernel": conv["kernel"] * factor, "bias": offset + conv.get("bias", 0) * factor}}
    return {
        name: _fold(part, stats.get(name, {})) if isinstance(part, Mapping) else part for name, part in params.items()
    }


def to_kernel_dtype(*arrays: Any, **_: Any) -> list[Array | None]:
    """For `nn.Conv`: images take the dtype of the parameters, so that bytes can be given as they are."""
    images, kernel, bias = arrays
    return [images.astype(kernel.dtype), kernel, bias]
