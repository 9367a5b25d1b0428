"""MobileNetV2 (Sandler et al. 2018) and MobileNetV3-Large (Howard et al. 2019)."""

import functools
from typing import Annotated, Literal, NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from research.layers.convolution import ConvNorm
from research.layers.embedding import classifier
from research.parallel.mesh import shard_batch
from research.ranges import Classes, Range, Size

_ACTIVATIONS = {"relu": jax.nn.relu, "relu6": jax.nn.relu6, "hard_swish": jax.nn.hard_swish}


class Row(NamedTuple):
    """A line of the papers' tables: blocks of one kind, the first of them with the stride."""

    kernel: int
    expansion: int | float
    channels: int
    squeeze: bool
    activation: Literal["relu", "relu6", "hard_swish"]
    repeats: int
    stride: int


V2 = (
    Row(3, 1, 16, False, "relu6", 1, 1),
    Row(3, 6, 24, False, "relu6", 2, 2),
    Row(3, 6, 32, False, "relu6", 3, 2),
    Row(3, 6, 64, False, "relu6", 4, 2),
    Row(3, 6, 96, False, "relu6", 3, 1),
    Row(3, 6, 160, False, "relu6", 3, 2),
    Row(3, 6, 320, False, "relu6", 1, 1),
)
"""Table 2 of the V2 paper."""

V3 = (
    Row(3, 1, 16, False, "relu", 1, 1),
    Row(3, 4, 24, False, "relu", 1, 2),
    Row(3, 3, 24, False, "relu", 1, 1),
    Row(5, 3, 40, True, "relu", 3, 2),
    Row(3, 6, 80, False, "hard_swish", 1, 2),
    Row(3, 2.5, 80, False, "hard_swish", 1, 1),
    Row(3, 2.3, 80, False, "hard_swish", 2, 1),
    Row(3, 6, 112, True, "hard_swish", 2, 1),
    Row(5, 6, 160, True, "hard_swish", 3, 2),
)
"""Table 1 of the V3 paper."""

_TABLES = {"v2": V2, "v3": V3}


def divisible(channels: int | float) -> int:
    """The nearest multiple of 8 that is at least 90 % of the channels, as in the published code."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


class InvertedResidual(nn.Module):
    """Expansion by a 1x1 convolution, a depthwise one, and a linear 1x1 projection (section 3.3 of the V2 paper).

    squeeze: weighs the channels by what their means say, between the latter two (section 5.1 of the V3 paper).
    """

    channels: int
    expanded: int
    kernel: int
    stride: int
    squeeze: bool
    activation: Literal["relu", "relu6", "hard_swish"]
    folded: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch rows columns features"]:
        layer, activate = functools.partial(ConvNorm, folded=self.folded), _ACTIVATIONS[self.activation]
        y = x
        if self.expanded != x.shape[-1]:
            y = activate(layer(self.expanded, name="expand")(y, train=train))
        y = activate(layer(self.expanded, self.kernel, self.stride, groups=-1, name="depthwise")(y, train=train))
        if self.squeeze:
            hidden = nn.Dense(divisible(self.expanded / 4), name="squeeze")(y.mean(axis=(1, 2), keepdims=True))
            y *= jax.nn.hard_sigmoid(nn.Dense(self.expanded, name="excite")(jax.nn.relu(hidden)))
        y = layer(self.channels, name="project")(y, train=train)
        return x + y if x.shape == y.shape else y


class MobileNet(nn.Module):
    """MobileNet for classification.

    Fields:
        multiplier: of all channels but the head's and, in V3, a narrower stem's.
        head_width: of the last layer before the classifier.
        folded: batch normalisation folded into the convolutions (`convolution.fold`), for inference.
    """

    num_classes: Classes
    version: Literal["v2", "v3"] = "v2"
    multiplier: Annotated[float, Range(0, 100, above=True)] = 1.0
    head_width: Size = 1280
    folded: bool = False

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Logits of the classes, float32; the pooled features where `num_classes` is 0."""
        x = self.feature_map(images, train=train).mean(axis=(1, 2))
        if self.version == "v3":
            x = jax.nn.hard_swish(nn.Dense(self.head_width, name="last")(x))
        if not self.num_classes:
            return x
        return classifier(self.num_classes, name="head")(x)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels on a side of what a position of each of `levels` stands for."""
        return tuple(2**level for level in range(1, 2 + sum(row.stride == 2 for row in _TABLES[self.version])))

    def feature_map(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch rows columns features"]:
        """The last of `levels`."""
        return self.levels(images, train=train)[-1]

    @nn.compact
    def levels(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> tuple[Float[Array, "batch _ _ _"], ...]:
        """The output of the last block of every resolution; the smallest one's after the last convolution."""
        last, activation = {
            "v2": (self.head_width, "relu6"),
            "v3": (divisible(960 * self.multiplier), "hard_swish"),
        }[self.version]
        layer, activate = functools.partial(ConvNorm, folded=self.folded), _ACTIVATIONS[activation]
        stem = divisible(32 * self.multiplier) if self.version == "v2" else divisible(16 * max(self.multiplier, 1))
        x = activate(layer(stem, 3, 2, name="stem")(images, train=train))
        levels = []
        for number, row in enumerate(_TABLES[self.version]):
            if row.stride == 2:
                levels.append(x)
            for index in range(row.repeats):
                block = InvertedResidual(
                    channels=divisible(row.channels * self.multiplier),
                    expanded=divisible(row.expansion * x.shape[-1]) if row.expansion != 1 else x.shape[-1],
                    kernel=row.kernel,
                    stride=row.stride if not index else 1,
                    squeeze=row.squeeze,
                    activation=row.activation,
                    folded=self.folded,
                    name=f"row_{number}_block_{index}",
                )
                x = shard_batch(block(x, train=train))
        return (*levels, activate(layer(last, name="last_convolution")(x, train=train)))
