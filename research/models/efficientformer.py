"""EfficientFormer: pooling in the early stages, attention only at the end (Li et al. 2022)."""

import functools
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from research.errors import UserError
from research.layers.convolution import ConvNorm
from research.layers.embedding import classifier
from research.layers.pooling import mean_pool
from research.layers.transformer import TransformerLayer, drop_branch
from research.parallel.mesh import shard_batch
from research.ranges import Classes, Layers, Range, Rate, Size

SIZES = {
    "L1": {"depths": (3, 2, 6, 4), "widths": (48, 96, 224, 448), "num_attention": 1},
    "L3": {"depths": (4, 4, 12, 6), "widths": (64, 128, 320, 512), "num_attention": 4},
    "L7": {"depths": (6, 6, 18, 8), "widths": (96, 192, 384, 768), "num_attention": 8},
}
"""The architectures in the appendix of the paper."""

NUM_HEADS = 8
KEY_SIZE = 32
VALUE_SIZE = 4 * KEY_SIZE
MLP_RATIO = 4
EPSILON = 1e-5
LAYER_SCALE = 1e-5

_INIT = nn.initializers.truncated_normal(0.02)


def fields(name: str) -> dict[str, Any]:
    """The fields of a size, such as "L1"."""
    if name not in SIZES:
        raise UserError(f"EfficientFormer size {name!r} is unknown: use one of {', '.join(SIZES)}")
    return dict(SIZES[name])


def pool(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch height width channels"]:
    """The mean of each pixel's 3x3 neighbours within the image, minus the pixel (section 4.1)."""
    return mean_pool(x, 3) - x


class PoolingBlock(nn.Module):
    """Pooling and a network of two 1x1 convolutions, each with a residual connection ("MB4D", section 4.1)."""

    folded: bool

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        *,
        drop_rate: Float[Array, ""] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch height width channels"]:
        """drop_rate: probability of leaving out a sub-layer, drawn for each example (stochastic depth)."""
        width = x.shape[-1]

        def add(x, name, branch):
            branch *= self.param(f"{name}_scale", nn.initializers.constant(LAYER_SCALE), (width,))
            return x + (branch if drop_rate is None else drop_branch(branch, drop_rate, self.make_rng("dropout")))

        layer = functools.partial(ConvNorm, use_bias=True, folded=self.folded)
        x = add(x, "pooling", pool(x))
        hidden = jax.nn.gelu(layer(MLP_RATIO * width, name="up")(x, train=train), approximate=False)
        return add(x, "feed_forward", layer(width, name="down")(hidden, train=train))


class AttentionBlock(TransformerLayer):
    """Attention and feed-forward over the tokens of a square grid ("MB3D", section 4.1).

    `relative_bias` holds a number for each distance in rows and in columns and each head.

    Fields:
        resolution: tokens on a side of the grid.
    """

    resolution: int = 7

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        *,
        drop_rate: Float[Array, ""] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch tokens width"]:
        """drop_rate: probability of leaving out a sub-layer, drawn for each example (stochastic depth)."""
        return super().__call__(x, bias=self._bias(), drop_rate=drop_rate, train=train)

    def _bias(self) -> Float[Array, "1 heads tokens tokens"]:
        side = self.resolution
        table = self.param("relative_bias", nn.initializers.zeros, (side, side, self.num_heads))
        distances = (abs(axis[:, None] - axis) for axis in np.divmod(np.arange(side**2), side))
        return table[tuple(distances)].transpose(2, 0, 1)[None]


class EfficientFormer(nn.Module):
    """EfficientFormer for classification.

    Fields:
        depths, widths: blocks and channels of each stage; every stage but the first halves the image.
        num_attention: the number of the last stage's blocks, its last ones, that are attention; all others are pooling.
        resolution: tokens on a side of the last stage's grid, a 32nd of the image's; attention is bound to it.
        distillation: a second head that learns from a teacher (Touvron et al. 2021); the answer is the mean of both.
        stochastic_depth: probability of leaving out a sub-layer of the last block, growing linearly from 0 in the
            first (Huang et al. 2016).
        folded: batch normalisation folded into the convolutions (`convolution.fold`), for inference.
    """

    num_classes: Classes
    depths: tuple[Layers, ...]
    widths: tuple[Size, ...]
    num_attention: Annotated[int, Range(0, 1000)]
    resolution: Size = 7
    distillation: bool = True
    stochastic_depth: Rate = 0.0
    folded: bool = False

    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Logits of the classes, float32; the pooled features where `num_classes` is 0."""
        outputs = self.all_heads(images, train=train)
        return outputs[0] if len(outputs) == 1 else (outputs[0] + outputs[1]) / 2

    @nn.compact
    def all_heads(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> tuple[Float[Array, "batch outputs"], ...]:
        """The logits of the heads apart: the classes', and with `distillation` the teacher's."""
        x = self.feature_map(images, train=train).mean(axis=(1, 2))
        if not self.num_classes:
            return (x,)
        names = ("head",) + ("head_distillation",) * self.distillation
        return tuple(classifier(self.num_classes, name=name)(x) for name in names)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels on a side of what a position of each of `levels` stands for."""
        return tuple(4 * 2**stage for stage in range(len(self.depths)))

    def feature_map(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch rows columns features"]:
        """The last of `levels`."""
        return self.levels(images, train=train)[-1]

    @nn.compact
    def levels(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> tuple[Float[Array, "batch _ _ _"], ...]:
        """The output of every stage; the last one's after the final norm."""
        self._check_fields()
        layer = functools.partial(ConvNorm, kernel=3, stride=2, use_bias=True, folded=self.folded)
        drop = train and self.stochastic_depth > 0
        drop_rates = iter(jnp.linspace(0.0, self.stochastic_depth, sum(self.depths)) if drop else ())
        x = jax.nn.relu(layer(self.widths[0] // 2, name="stem_0")(images, train=train))
        x = jax.nn.relu(layer(self.widths[0], name="stem_1")(x, train=train))
        levels = []
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            if stage:
                x = layer(width, name=f"stage_{stage}_embedding")(x, train=train)
            pooling = depth - self.num_attention if stage == len(self.depths) - 1 else depth
            for index in range(pooling):
                block = PoolingBlock(self.folded, name=f"stage_{stage}_block_{index}")
                x = shard_batch(block(x, drop_rate=next(drop_rates, None), train=train))
            levels.append(x)
        grid = x.shape
        if self.num_attention:
            self._check_grid(images.shape[1:3], grid[1:3])
        x = x.reshape(grid[0], -1, grid[-1])
        for index in range(pooling, depth):
            block = self._attention_block(grid[-1], f"stage_{stage}_block_{index}")
            x = shard_batch(block(x, drop_rate=next(drop_rates, None), train=train))
        return (*levels[:-1], nn.LayerNorm(epsilon=EPSILON, name="norm")(x).reshape(grid))

    def _attention_block(self, width: int, name: str) -> AttentionBlock:
        return AttentionBlock(
            num_heads=NUM_HEADS,
            mlp_width=MLP_RATIO * width,
            head_size=KEY_SIZE,
            value_size=VALUE_SIZE,
            activation="gelu",
            norm="pre",
            norm_epsilon=EPSILON,
            layer_scale=LAYER_SCALE,
            kernel_init=_INIT,
            out_init=_INIT,
            resolution=self.resolution,
            name=name,
        )

    def _check_fields(self) -> None:
        if len(self.widths) != len(self.depths):
            raise UserError(f"widths has {len(self.widths)} stages, depths {len(self.depths)}: give both for every one")
        if not 0 <= self.num_attention <= self.depths[-1]:
            raise UserError(
                f"num_attention {self.num_attention} does not fit a last stage of {self.depths[-1]} blocks: "
                f"use 0 to {self.depths[-1]}"
            )

    def _check_grid(self, size: tuple[int, ...], grid: tuple[int, ...]) -> None:
        if grid != (self.resolution, self.resolution):
            side = self.resolution * 2 ** (len(self.depths) + 1)
            raise UserError(
                f"an image of {size[0]} x {size[1]} pixels makes {grid[0]} x {grid[1]} tokens, but attention has "
                f"biases for {self.resolution} x {self.resolution}: use images of {side} x {side} pixels, or for other "
                "square images set resolution"
            )
