"""Swin Transformer: attention in windows that shift from layer to layer (Liu et al. 2021)."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from research.errors import UserError
from research.layers.attention import MultiHeadAttention
from research.layers.embedding import PatchEmbedding, classifier
from research.layers.feed_forward import FeedForward
from research.layers.transformer import drop_branch
from research.parallel.mesh import shard_batch
from research.ranges import Classes, Layers, Rate, Size

SIZES = {
    "T": {"width": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "S": {"width": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "B": {"width": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
}
"""Section 3.3 of the paper: heads of 32 channels."""

EPSILON = 1e-5

_INIT = nn.initializers.truncated_normal(0.02)


def fields(name: str) -> dict[str, Any]:
    """The fields of a size, such as "T"."""
    if name not in SIZES:
        raise UserError(f"Swin size {name!r} is unknown: use one of {', '.join(SIZES)}")
    return dict(SIZES[name])


class NormedPatchEmbedding(PatchEmbedding):
    """Patches under a LayerNorm; an image that they do not divide is padded with zeros at its right and bottom."""

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch rows columns features"]:
        x = super().__call__(_pad(images, self.patch_size, self.patch_size))
        return nn.LayerNorm(epsilon=EPSILON, name="norm")(x)


class PatchMerging(nn.Module):
    """Each square of four tokens becomes one of twice the channels (section 3.1)."""

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch rows columns features"]:
        x = _pad(x, 2, 2)
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
        # The published weights have the upper left token first, then the lower left and the two right ones.
        x = x.transpose(0, 1, 3, 4, 2, 5).reshape(batch, height // 2, width // 2, 4 * channels)
        x = nn.LayerNorm(epsilon=EPSILON, name="norm")(x)
        return nn.Dense(2 * channels, use_bias=False, kernel_init=_INIT, name="reduce")(x)


class Block(nn.Module):
    """Window attention and feed-forward, x + f(norm(x)) both (figure 3b).

    `relative_bias` holds a number for each difference of rows and columns (query minus key, plus window - 1) and head.

    Fields:
        shifted: windows are moved by half their size, those over the image's edge in parts that do not see each other.
    """

    num_heads: int
    mlp_width: int
    window: int
    shifted: bool

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        *,
        drop_rate: Float[Array, ""] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch height width channels"]:
        """drop_rate: probability of leaving out a sub-layer, drawn for each example (stochastic depth)."""

        def add(x, name, sub_layer):
            branch = sub_layer(nn.LayerNorm(epsilon=EPSILON, name=f"{name}_norm")(x))
            return x + (branch if drop_rate is None else drop_branch(branch, drop_rate, self.make_rng("dropout")))

        feed_forward = FeedForward(self.mlp_width, "gelu", kernel_init=_INIT, out_init=_INIT, name="feed_forward")
        x = add(x, "attention", functools.partial(self._attend, train=train))
        return add(x, "feed_forward", functools.partial(feed_forward, train=train))

    def _attend(self, x: Array, train: bool) -> Array:
        height, width = x.shape[1:3]
        rows, columns = min(height, self.window), min(width, self.window)
        # One window sees the whole axis already.
        shift = tuple(self.window // 2 if self.shifted and size > self.window else 0 for size in (height, width))
        x = _pad(x, rows, columns)
        padded = x.shape[1:3]
        mask = None
        if any(shift):
            x = jnp.roll(x, (-shift[0], -shift[1]), axis=(1, 2))
            mask = jnp.tile(_shifted_mask(padded, (rows, columns), shift), (x.shape[0], 1, 1))[:, None]
        attention = MultiHeadAttention(self.num_heads, kernel_init=_INIT, out_init=_INIT, name="attention")
        windows = _partition(x, rows, columns)
        x = _join(attention(windows, mask=mask, bias=self._bias(rows, columns), train=train), padded, rows, columns)
        if any(shift):
            x = jnp.roll(x, shift, axis=(1, 2))
        return x[:, :height, :width]

    def _bias(self, rows: int, columns: int) -> Float[Array, "1 heads tokens tokens"]:
        """The table has the size of a whole window also where the image is smaller, so that it fits any image."""
        side = 2 * self.window - 1
        table = self.param("relative_bias", _INIT, (side, side, self.num_heads))
        row, column = np.divmod(np.arange(rows * columns), columns)
        differences = (axis[:, None] - axis[None, :] + self.window - 1 for axis in (row, column))
        return table[tuple(differences)].transpose(2, 0, 1)[None]


class Swin(nn.Module):
    """Swin Transformer for classification.

    Images of any size do: tokens that are zeros, at the right and at the bottom, fill up the windows, and attention
    sees them, as in the published code for object detection. A window is never larger than the stage's image.

    Fields:
        width: of the first stage; every other one halves the image and doubles the width.
        depths, num_heads: blocks and heads of each stage.
        window: tokens on a side of a window; every second block shifts them by half of it.
        mlp_ratio: width of the feed-forward networks' hidden layer, in widths of the stage.
        stochastic_depth: probability of leaving out a sub-layer of the last block, growing linearly from 0 in the
            first (Huang et al. 2016).
        norm_levels: not the last of `levels` alone has a norm, but every one, as in the published code for
            segmentation; the next stage merges what is not normalised.
    """

    num_classes: Classes
    width: Size
    depths: tuple[Layers, ...]
    num_heads: tuple[Size, ...]
    window: Size = 7
    patch_size: Size = 4
    mlp_ratio: Size = 4
    stochastic_depth: Rate = 0.0
    norm_levels: bool = False

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
        """Pixels on a side of what a token of each of `levels` stands for."""
        return tuple(self.patch_size * 2**stage for stage in range(len(self.depths)))

    def feature_map(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch rows columns features"]:
        """The last of `levels`."""
        return self.levels(images, train=train)[-1]

    @nn.compact
    def levels(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> tuple[Float[Array, "batch _ _ _"], ...]:
        """The output of every stage; the last one's after the final norm, the others as the next stage merges them,
        unless they have norms too."""
        if len(self.num_heads) != len(self.depths):
            raise UserError(
                f"num_heads has {len(self.num_heads)} stages, depths {len(self.depths)}: give both for every stage"
            )
        drop = train and self.stochastic_depth > 0
        drop_rates = iter(jnp.linspace(0.0, self.stochastic_depth, sum(self.depths)) if drop else ())
        x = NormedPatchEmbedding(self.patch_size, self.width, name="patch_embedding")(images)
        levels = []
        for stage, (depth, num_heads) in enumerate(zip(self.depths, self.num_heads, strict=True)):
            if stage:
                x = PatchMerging(name=f"stage_{stage}_merge")(x)
            for index in range(depth):
                block = Block(
                    num_heads,
                    self.mlp_ratio * x.shape[-1],
                    self.window,
                    shifted=index % 2 == 1,
                    name=f"stage_{stage}_block_{index}",
                )
                x = shard_batch(block(x, drop_rate=next(drop_rates, None), train=train))
            last = stage == len(self.depths) - 1
            normed = last or self.norm_levels
            name = "norm" if last else f"stage_{stage}_norm"
            levels.append(nn.LayerNorm(epsilon=EPSILON, name=name)(x) if normed else x)
        return tuple(levels)


def _pad(x: Array, rows: int, columns: int) -> Array:
    """Zeros at the right and bottom, up to multiples of `rows` and `columns`."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % rows), (0, -x.shape[2] % columns), (0, 0)))


def _partition(x: Array, rows: int, columns: int) -> Array:
    """[batch, height, width, channels] -> [batch · windows, rows · columns, channels]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // rows, rows, width // columns, columns, channels)
    return x.swapaxes(2, 3).reshape(-1, rows * columns, channels)


def _join(windows: Array, size: tuple[int, ...], rows: int, columns: int) -> Array:
    """The inverse of `_partition`, for an image of this height and width."""
    height, width = size
    x = windows.reshape(-1, height // rows, width // columns, rows, columns, windows.shape[-1])
    return x.swapaxes(2, 3).reshape(-1, height, width, windows.shape[-1])


def _shifted_mask(
    size: tuple[int, ...], window: tuple[int, int], shift: tuple[int, ...]
) -> Bool[Array, "windows queries keys"]:
    """Which tokens of a window are neighbours, and did not come from opposite edges of the image (figure 4)."""
    row_wrapped, column_wrapped = (jnp.arange(length) >= length - by for length, by in zip(size, shift, strict=True))
    regions = _partition((2 * row_wrapped[:, None] + column_wrapped)[None, :, :, None], *window)
    return regions == regions.swapaxes(1, 2)
