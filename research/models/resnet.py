"""Residual networks (He et al. 2016), with the stride in the 3x3 convolution as in today's implementations."""

import functools
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from research.errors import UserError
from research.layers.convolution import ConvNorm
from research.layers.embedding import classifier
from research.layers.pooling import max_pool
from research.parallel.mesh import shard_batch
from research.ranges import Classes, Layers, Size

SIZES = {
    "18": {"depths": (2, 2, 2, 2), "bottleneck": False},
    "34": {"depths": (3, 4, 6, 3), "bottleneck": False},
    "50": {"depths": (3, 4, 6, 3), "bottleneck": True},
    "101": {"depths": (3, 4, 23, 3), "bottleneck": True},
}
"""Table 1 of the paper."""


def fields(name: str) -> dict[str, Any]:
    """The fields of a size, such as "50"."""
    if name not in SIZES:
        raise UserError(f"ResNet size {name!r} is unknown: use one of {', '.join(SIZES)}")
    return dict(SIZES[name])


class Block(nn.Module):
    """Two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1 to four times the channels, beside a shortcut."""

    channels: int
    stride: int
    bottleneck: bool
    folded: bool
    frozen: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch rows columns features"]:
        layer = functools.partial(ConvNorm, folded=self.folded, frozen=self.frozen)
        out = 4 * self.channels if self.bottleneck else self.channels
        if self.bottleneck:
            y = jax.nn.relu(layer(self.channels, 1, name="reduce")(x, train=train))
            y = jax.nn.relu(layer(self.channels, 3, self.stride, name="spatial")(y, train=train))
        else:
            y = jax.nn.relu(layer(self.channels, 3, self.stride, name="spatial")(x, train=train))
        last = functools.partial(layer, scale_init=nn.initializers.zeros, name="last")
        y = last(out, 1 if self.bottleneck else 3)(y, train=train)
        if x.shape != y.shape:
            x = layer(out, 1, self.stride, name="shortcut")(x, train=train)
        return jax.nn.relu(x + y)


class ResNet(nn.Module):
    """Residual network for classification.

    Fields:
        depths: blocks of each stage; every stage but the first halves the image and doubles the channels.
        small_images: a 3x3 stem without pooling, for images of 32 pixels or so (section 4.2).
        folded: batch normalisation folded into the convolutions (`convolution.fold`), for inference.
        frozen_norm: batch normalisation keeps what was taken over from another model, for batches of few images.
        stem_level: the output of the stem, before pooling, is a level too, the first.
    """

    num_classes: Classes
    depths: tuple[Layers, ...]
    bottleneck: bool
    width: Size = 64
    small_images: bool = False
    folded: bool = False
    frozen_norm: bool = False
    stem_level: bool = False

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Logits of the classes, float32; the pooled features where `num_classes` is 0."""
        x = self.feature_map(images, train=train).mean(axis=(1, 2))
        if not self.num_classes:
            return x
        return classifier(self.num_classes, name="head")(x)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels on a side of what a position of each of `levels` stands for."""
        stem, first = (1, 1) if self.small_images else (2, 4)
        return (stem,) * self.stem_level + tuple(first * 2**stage for stage in range(len(self.depths)))

    def feature_map(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch rows columns features"]:
        """The last of `levels`."""
        return self.levels(images, train=train)[-1]

    @nn.compact
    def levels(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> tuple[Float[Array, "batch _ _ _"], ...]:
        """The output of every stage, behind that of the stem where `stem_level` asks for it."""
        options = {"folded": self.folded, "frozen": self.frozen_norm}
        stem = ConvNorm(self.width, *((3, 1) if self.small_images else (7, 2)), **options, name="stem")
        x = jax.nn.relu(stem(images, train=train))
        levels = [x] * self.stem_level
        if not self.small_images:
            x = max_pool(x, window=3, stride=2, padding=1)
        for stage, depth in enumerate(self.depths):
            for index in range(depth):
                stride = 2 if stage and not index else 1
                name = f"stage_{stage}_block_{index}"
                block = Block(self.width * 2**stage, stride, self.bottleneck, **options, name=name)
                x = shard_batch(block(x, train=train))
            levels.append(x)
        return tuple(levels)
