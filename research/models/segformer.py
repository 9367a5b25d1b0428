"""SegFormer: a hierarchical Transformer and a decoder of linear layers (Xie et al. 2021)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from research.errors import UserError
from research.layers.attention import MultiHeadAttention
from research.layers.convolution import ConvNorm, convolution, to_kernel_dtype
from research.layers.embedding import classifier
from research.layers.transformer import drop_branch
from research.parallel.mesh import shard_batch
from research.ranges import Layers, Positive, Rate, Size

SIZES = {
    "B0": {"widths": (32, 64, 160, 256), "depths": (2, 2, 2, 2), "decoder_width": 256},
    "B1": {"widths": (64, 128, 320, 512), "depths": (2, 2, 2, 2), "decoder_width": 256},
    "B2": {"widths": (64, 128, 320, 512), "depths": (3, 4, 6, 3), "decoder_width": 768},
}
"""Table 6 of the paper."""
EPSILON = 1e-6
INIT = nn.initializers.truncated_normal(0.02)


def fields(name: str) -> dict[str, Any]:
    """The fields of a size, such as "B0"."""
    if name not in SIZES:
        raise UserError(f"SegFormer size {name!r} is unknown: use one of {', '.join(SIZES)}")
    return dict(SIZES[name])


class OverlappingPatches(nn.Module):
    """Overlapped patch merging (section 3.1): a convolution with a stride, then LayerNorm."""

    width: int
    kernel: int
    stride: int
    norm_epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch rows columns features"]:
        x = nn.Conv(
            self.width,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=self.kernel // 2,
            promote_dtype=to_kernel_dtype,
            conv_general_dilated=convolution,
            name="conv",
        )(x)
        return nn.LayerNorm(epsilon=self.norm_epsilon, name="norm")(x)


class MixBlock(nn.Module):
    """Efficient self-attention and Mix-FFN, x + f(norm(x)) both (section 3.1, equations 1 to 3).

    Fields:
        reduction: keys and values are of the image shrunk by this factor on each side, R in the paper its square.
    """

    num_heads: int
    mlp_ratio: int
    reduction: int
    norm_epsilon: float = EPSILON

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        *,
        drop_rate: Float[Array, ""] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch height width channels"]:
        """drop_rate: probability of leaving out a sub-layer, drawn for each example (stochastic depth)."""
        for name, sub_layer in (("attention", self._attend), ("feed_forward", self._mixed)):
            branch = sub_layer(nn.LayerNorm(epsilon=self.norm_epsilon, name=f"{name}_norm")(x), train)
            x = x + (branch if drop_rate is None else drop_branch(branch, drop_rate, self.make_rng("dropout")))
        return shard_batch(x)

    def _attend(self, x: Array, train: bool) -> Array:
        batch, height, width, channels = x.shape
        attention = MultiHeadAttention(
            self.num_heads, cross=self.reduction > 1, kernel_init=INIT, out_init=INIT, name="attention"
        )
        queries, memory = x.reshape(batch, height * width, channels), None
        if self.reduction > 1:
            small = _squares(x, self.reduction)
            small = nn.Dense(channels, kernel_init=INIT, name="reduce")(small)
            memory = nn.LayerNorm(epsilon=self.norm_epsilon, name="reduce_norm")(small).reshape(batch, -1, channels)
        return attention(queries, memory, train=train).reshape(x.shape)

    def _mixed(self, x: Array, train: bool) -> Array:
        """Linear, a 3x3 convolution of each channel by itself, GELU, linear (equation 3)."""
        channels = x.shape[-1]
        hidden = nn.Dense(self.mlp_ratio * channels, kernel_init=INIT, name="up")(x)
        hidden = nn.Conv(
            hidden.shape[-1],
            (3, 3),
            padding=1,
            feature_group_count=hidden.shape[-1],
            promote_dtype=to_kernel_dtype,
            conv_general_dilated=convolution,
            name="conv",
        )(hidden)
        return nn.Dense(channels, kernel_init=INIT, name="down")(jax.nn.gelu(hidden, approximate=False))


def _squares(x: Float[Array, "batch height width channels"], side: int) -> Float[Array, "batch rows columns pixels"]:
    """Squares of side x side tokens, each as one vector; zeros at the right and at the bottom fill them up."""
    batch, height, width, channels = x.shape
    x = jnp.pad(x, [(0, 0), (0, -height % side), (0, -width % side), (0, 0)])
    rows, columns = x.shape[1] // side, x.shape[2] // side
    x = x.reshape(batch, rows, side, columns, side, channels).swapaxes(2, 3)
    return x.reshape(batch, rows, columns, side * side * channels)


class SegFormer(nn.Module):
    """A class for each pixel, from four levels with strides 4, 8, 16 and 32 that are projected, enlarged and joined.

    Fields:
        widths, depths: channels and blocks of each stage. decoder_width: C in section 3.2.
        num_heads, reductions, mlp_ratio: of each stage's attention, by how much its keys and values are shrunk on a
            side, and the expansion of its Mix-FFN.
        dropout: before the last projection. stochastic_depth: probability of leaving out a sub-layer of the last block,
            growing linearly from 0 in the first (Huang et al. 2016).
        norm_epsilon: of all LayerNorms; transformers has 1e-5.
    """

    num_classes: Size
    widths: tuple[Size, Size, Size, Size] = SIZES["B0"]["widths"]
    depths: tuple[Layers, Layers, Layers, Layers] = SIZES["B0"]["depths"]
    decoder_width: Size = 256
    num_heads: tuple[Size, Size, Size, Size] = (1, 2, 5, 8)
    reductions: tuple[Size, Size, Size, Size] = (8, 4, 2, 1)
    mlp_ratio: Size = 4
    dropout: Rate = 0.1
    stochastic_depth: Rate = 0.1
    norm_epsilon: Positive = EPSILON

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch height width classes"]:
        """Logits of the classes of each pixel, float32; computed at a quarter of the size and enlarged bilinearly."""
        levels = self._levels(images, train)
        size = levels[0].shape[:3]
        projected = [
            jax.image.resize(
                nn.Dense(self.decoder_width, kernel_init=INIT, name=f"project_{number}")(level),
                (*size, self.decoder_width),
                "bilinear",
            )
            for number, level in enumerate(levels)
        ]
        x = jnp.concatenate(projected, axis=-1)
        x = jax.nn.relu(ConvNorm(self.decoder_width, name="fuse")(x, train=train))
        x = nn.Dropout(self.dropout, broadcast_dims=(1, 2))(x, deterministic=not train)
        logits = classifier(self.num_classes, kernel_init=INIT, name="head")(x)
        return jax.image.resize(logits, (*images.shape[:3], self.num_classes), "bilinear")

    def _levels(self, x: Array, train: bool) -> list[Array]:
        """The output of every stage, normalised."""
        levels, block = [], 0
        rates = jnp.linspace(0.0, self.stochastic_depth, sum(self.depths))
        for stage, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            kernel, stride = (3, 2) if stage else (7, 4)
            x = OverlappingPatches(width, kernel, stride, self.norm_epsilon, name=f"stage_{stage}_patches")(x)
            for index in range(depth):
                drop = rates[block] if train and self.stochastic_depth else None
                layer = MixBlock(
                    self.num_heads[stage],
                    self.mlp_ratio,
                    self.reductions[stage],
                    self.norm_epsilon,
                    name=f"stage_{stage}_block_{index}",
                )
                x = layer(x, drop_rate=drop, train=train)
                block += 1
            x = nn.LayerNorm(epsilon=self.norm_epsilon, name=f"stage_{stage}_norm")(x)
            levels.append(x)
        return levels
