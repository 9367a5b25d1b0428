"""The Vision Transformer of "An Image Is Worth 16x16 Words" (Dosovitskiy et al. 2021)."""

import functools
import math
from typing import Annotated, Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from research.errors import UserError
from research.layers.attention import MultiHeadAttention
from research.layers.embedding import PatchEmbedding, float32_dot_general
from research.layers.feed_forward import Activation, FeedForward
from research.layers.masks import segment_mask
from research.layers.positions import resample_positions, sincos_2d
from research.layers.transformer import TransformerLayer, TransformerStack
from research.ranges import Classes, Layers, NotNegative, Positive, Range, Rate, Size

SIZES = {
    "Ti": {"width": 192, "num_layers": 12, "num_heads": 3, "mlp_width": 768},
    "S": {"width": 384, "num_layers": 12, "num_heads": 6, "mlp_width": 1536},
    "B": {"width": 768, "num_layers": 12, "num_heads": 12, "mlp_width": 3072},
    "L": {"width": 1024, "num_layers": 24, "num_heads": 16, "mlp_width": 4096},
    "H": {"width": 1280, "num_layers": 32, "num_heads": 16, "mlp_width": 5120},
}
"""Table 1 of the paper, and Ti and S of DeiT (Touvron et al. 2021)."""


def fields(name: str) -> dict[str, Any]:
    """The fields of a size with a patch size, such as "B/16"."""
    size, _, patch = name.partition("/")
    if size not in SIZES or not patch.isdecimal() or int(patch) == 0:
        raise UserError(f"ViT size {name!r} is unknown: use one of {', '.join(SIZES)} with a patch size, such as B/16")
    return {**SIZES[size], "patch_size": int(patch)}


class Packing(NamedTuple):
    """What lies where in rows of packed images; see `ViT.packed`."""

    positions: Int[Array, "rows tokens 2"]
    segments: Int[Array, "rows tokens"]
    num_images: int


class ViT(nn.Module):
    """Encoder over the patches of an image, with a linear classification head.

    Fields:
        num_classes: 0 leaves out the head and returns the pooled features in the compute dtype.
        pool: the class token's output, the mean over patches, or attention with one learned query (Zhai et al. 2022,
            "MAP"); only the first has a class token.
        positions: a learned table, resampled for images of another size, or sines and cosines.
        head_size: of queries, keys and values; width / num_heads unless given.
        registers: tokens without a meaning of their own (Darcet et al. 2024).
        distillation: a second token and head that learn from a teacher (Touvron et al. 2021); the answer is the mean
            of both heads.
        activation: of the feed-forward networks, that behind pooling by attention too.
        input_norm: a LayerNorm of what enters the encoder, and patches without a bias, as in CLIP (Radford et al. 2021,
            section 2.4).
    """

    num_classes: Classes
    patch_size: Size
    width: Size
    num_layers: Layers
    num_heads: Size
    mlp_width: Size
    pool: Literal["cls", "mean", "attention"] = "cls"
    positions: Literal["learned", "sincos2d"] = "learned"
    registers: Annotated[int, Range(0, 2**20)] = 0
    distillation: bool = False
    activation: Activation = "gelu"
    layer_scale: NotNegative | None = None
    qk_norm: bool = False
    dropout: Rate = 0.0
    stochastic_depth: Rate = 0.0
    norm_epsilon: Positive = 1e-6
    input_norm: bool = False
    remat: Literal["none", "full", "matmuls"] = "none"
    scan: bool = False
    head_size: Size | None = None

    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Logits of the classes, float32. The images are cast to the dtype of the parameters."""
        outputs = self.all_heads(images, train=train)
        return outputs[0] if len(outputs) == 1 else (outputs[0] + outputs[1]) / 2

    def all_heads(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> tuple[Float[Array, "batch outputs"], ...]:
        """The logits of every head apart: the classes', and with `distillation` the teacher's."""
        return self._heads(images, None, train)

    def packed(
        self,
        patches: Float[Array, "rows tokens pixels"],
        positions: Int[Array, "rows tokens 2"],
        segments: Int[Array, "rows tokens"],
        num_images: int,
        *,
        train: bool = False,
    ) -> Float[Array, "rows {num_images} outputs"]:
        """Logits, float32, of several images in each row of patches (Dehghani et al. 2023, section 2): each image's are
        those of `__call__`, by the same parameters.

        positions: row and column of each patch in its image, less than `tokens`. segments: k for the k-th image of a
        row, from 1 to num_images; 0 is padding. An image attends to itself alone; the logits of one that a row lacks
        mean nothing. Dropout is as in `__call__`, but stochastic depth leaves out a sub-layer for a whole row.
        """
        if self.pool != "mean" or self.positions != "sincos2d" or self.registers:
            raise UserError(
                "packed images have no class token, table of positions or registers: set model.pool to 'mean', "
                f"model.positions to 'sincos2d' and model.registers to 0, not {self.pool!r}, {self.positions!r} and "
                f"{self.registers}"
            )
        (logits,) = self._heads(as_strips(patches, self.patch_size), Packing(positions, segments, num_images), train)
        return logits

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels on a side of what a token of `levels` stands for."""
        return (self.patch_size,)

    @property
    def special_tokens(self) -> int:
        """Tokens before the patches: the class token, DeiT's distillation token."""
        return (self.pool == "cls") + self.distillation

    def levels(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> tuple[Float[Array, "batch rows columns features"]]:
        """One level: the encoder's output for the patches, each at its place in the image."""
        rows, columns = (size // self.patch_size for size in images.shape[1:3])
        patches = self._patches(self._encoded(images, None, train), rows * columns)
        return (patches.reshape(images.shape[0], rows, columns, self.width),)

    def hidden_states(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "layers batch tokens features"]:
        """The tokens behind every layer and the final norm: `special_tokens`, patches row by row, registers."""
        return self._encoded(images, None, train, every_layer=True)

    @nn.compact
    def _heads(
        self, images: Float[Array, "batch height width channels"], packing: Packing | None, train: bool
    ) -> tuple[Float[Array, "batch *images outputs"], ...]:
        x = self._encoded(images, packing, train)
        patches = self._patches(x, math.prod(size // self.patch_size for size in images.shape[1:3]))
        pooled = {"cls": lambda: x[:, 0], "mean": lambda: patches.mean(axis=1), "attention": lambda: self._map(patches)}
        features = _image_means(patches, packing) if packing else pooled[self.pool]()
        outputs = [features] + ([x[:, 1]] if self.distillation else [])
        names = ("head", "head_distillation")
        return tuple(self._head(name, output) for name, output in zip(names, outputs, strict=False))

    @nn.compact
    def _encoded(
        self,
        images: Float[Array, "batch height width channels"],
        packing: Packing | None,
        train: bool,
        every_layer: bool = False,
    ) -> Float[Array, "*layers batch tokens features"]:
        """The encoder's output: special tokens, patches, registers."""
        x = PatchEmbedding(self.patch_size, self.width, not self.input_norm, name="patch_embedding")(images)
        batch, rows, columns, width = x.shape
        x = x.reshape(batch, rows * columns, width)
        special = self._special_tokens()
        if self.positions == "sincos2d":
            table = _sincos_at(packing.positions, width) if packing else sincos_2d(rows, columns, width)
            x += table.astype(x.dtype)
        first = jnp.broadcast_to(special.astype(x.dtype), (batch, *special.shape))
        x = jnp.concatenate([first, x], axis=1)
        if self.positions == "learned":
            x += self._position_embedding((rows, columns), len(special))
        if self.input_norm:
            x = nn.LayerNorm(epsilon=self.norm_epsilon, name="input_norm")(x)
        if self.registers:
            tokens = self.param("registers", nn.initializers.normal(0.02), (self.registers, width))
            x = jnp.concatenate([x, jnp.broadcast_to(tokens, (batch, self.registers, width))], axis=1)
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        mask = segment_mask(packing.segments, packing.segments) if packing else None
        return self._encoder()(x, mask=mask, every_layer=every_layer, train=train)

    def _patches(self, x: Float[Array, "batch tokens width"], count: int) -> Float[Array, "batch patches width"]:
        return x[:, self.special_tokens : self.special_tokens + count]

    def _special_tokens(self) -> Float[Array, "tokens width"]:
        if self.distillation and self.pool != "cls":
            raise UserError(f"model.distillation needs the class token: set model.pool to 'cls', not {self.pool!r}")
        names = ("cls_token",) * (self.pool == "cls") + ("distillation_token",) * self.distillation
        tokens = [self.param(name, nn.initializers.zeros, (self.width,)) for name in names]
        return jnp.stack(tokens) if tokens else jnp.zeros((0, self.width))

    def _encoder(self) -> TransformerStack:
        layer = functools.partial(
            TransformerLayer,
            num_heads=self.num_heads,
            mlp_width=self.mlp_width,
            head_size=self.head_size,
            activation=self.activation,
            norm="pre",
            norm_epsilon=self.norm_epsilon,
            dropout=self.dropout,
            layer_scale=self.layer_scale,
            qk_norm=self.qk_norm,
        )
        return TransformerStack(
            layer,
            self.num_layers,
            stochastic_depth=self.stochastic_depth,
            remat=self.remat,
            scan=self.scan,
            final_norm=True,
            name="encoder",
        )

    def _map(self, patches: Float[Array, "batch patches width"]) -> Float[Array, "batch width"]:
        query = self.param("pool_query", nn.initializers.xavier_uniform(), (1, self.width))
        query = jnp.broadcast_to(query.astype(patches.dtype), (patches.shape[0], 1, self.width))
        attention = MultiHeadAttention(self.num_heads, self.head_size, cross=True, name="pool_attention")
        x = attention(query, patches)
        norm = nn.LayerNorm(epsilon=self.norm_epsilon, name="pool_norm")
        return (x + FeedForward(self.mlp_width, self.activation, name="pool_feed_forward")(norm(x)))[:, 0]

    def _head(self, name: str, x: Float[Array, "*batch width"]) -> Float[Array, "*batch outputs"]:
        if not self.num_classes:
            return x
        return nn.Dense(
            self.num_classes, kernel_init=nn.initializers.zeros, dot_general=float32_dot_general, name=name
        )(x)

    def _position_embedding(self, grid: tuple[int, int], prefix: int) -> Float[Array, "tokens width"]:
        tokens = prefix + grid[0] * grid[1]
        if self.has_variable("params", "position_embedding"):
            table = self.get_variable("params", "position_embedding")
            if len(table) != tokens:
                return resample_positions(table, grid, prefix)
        return self.param("position_embedding", nn.initializers.normal(0.02), (tokens, self.width))


def as_strips(
    patches: Float[Array, "rows tokens pixels"], patch_size: int
) -> Float[Array, "rows {patch_size} {patch_size}*tokens channels"]:
    """Each row of patches as an image one patch high."""
    rows, tokens, _ = patches.shape
    squares = patches.reshape(rows, tokens, patch_size, patch_size, -1)
    return squares.swapaxes(1, 2).reshape(rows, patch_size, tokens * patch_size, -1)


def _sincos_at(positions: Int[Array, "rows tokens 2"], width: int) -> Float[Array, "rows tokens width"]:
    """The vectors of `sincos_2d` at any (row, column): one half is a function of the column, the other of the row."""
    tokens, half = positions.shape[1], width // 2
    by_column = jnp.take(sincos_2d(1, tokens, width)[:, :half], positions[..., 1], axis=0)
    by_row = jnp.take(sincos_2d(tokens, 1, width)[:, half:], positions[..., 0], axis=0)
    return jnp.concatenate([by_column, by_row], axis=-1)


def _image_means(x: Float[Array, "rows tokens width"], packing: Packing) -> Float[Array, "rows images width"]:
    """The mean over each image's tokens; 0 for an image that a row lacks."""
    member = packing.segments[:, None, :] == jnp.arange(1, packing.num_images + 1)[:, None]
    sums = jnp.einsum("rit,rtw->riw", member.astype(x.dtype), x, preferred_element_type=jnp.float32)
    return (sums / jnp.maximum(member.sum(axis=-1, keepdims=True), 1)).astype(x.dtype)
