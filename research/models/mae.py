"""The masked autoencoder of "Masked Autoencoders Are Scalable Vision Learners" (He et al. 2022)."""

import functools
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int

from research.errors import UserError
from research.layers.embedding import PatchEmbedding, float32_dot_general
from research.layers.positions import sincos_2d
from research.layers.transformer import TransformerLayer, TransformerStack
from research.ranges import Layers, Part, Positive, Size


class MAE(nn.Module):
    """A ViT encoder that sees a few patches of an image, and a small decoder that paints the others.

    The encoder's parameters have the names of `research.models.vit.ViT` (with a class token and sine-cosine positions),
    so that a classifier can start from them. The defaults are ViT-B/16 with the decoder of the paper.

    Fields:
        masked: share of the patches that the encoder does not see.
        longest_wave: whether positions have the longest wavelength, see `sincos_2d`; the published weights have not.
    """

    patch_size: Size = 16
    width: Size = 768
    num_layers: Layers = 12
    num_heads: Size = 12
    mlp_width: Size = 3072
    decoder_width: Size = 512
    decoder_layers: Layers = 8
    decoder_heads: Size = 16
    masked: Part = 0.75
    norm_epsilon: Positive = 1e-6
    longest_wave: bool = True
    remat: Literal["none", "full", "matmuls"] = "none"
    scan: bool = False

    def setup(self):
        self.patch_embedding = PatchEmbedding(self.patch_size, self.width)
        self.cls_token = self.param("cls_token", nn.initializers.normal(0.02), (self.width,))
        self.encoder = self._stack(self.num_layers, self.num_heads, self.mlp_width)
        self.decoder_embedding = nn.Dense(self.decoder_width)
        self.mask_token = self.param("mask_token", nn.initializers.normal(0.02), (self.decoder_width,))
        self.decoder = self._stack(self.decoder_layers, self.decoder_heads, 4 * self.decoder_width)
        self.head = nn.Dense(self.patch_size**2 * 3, dot_general=float32_dot_general)

    def _stack(self, num_layers: int, num_heads: int, mlp_width: int) -> TransformerStack:
        layer = functools.partial(
            TransformerLayer,
            num_heads=num_heads,
            mlp_width=mlp_width,
            activation="gelu",
            norm="pre",
            norm_epsilon=self.norm_epsilon,
        )
        return TransformerStack(layer, num_layers, remat=self.remat, scan=self.scan, final_norm=True)

    def num_visible(self, num_patches: int) -> int:
        """Number of patches, of `num_patches`, that the encoder sees."""
        visible = int(num_patches * (1 - self.masked))
        if not 0 < visible < num_patches:
            raise UserError(f"model.masked {self.masked} leaves {visible} of {num_patches} patches: use another share")
        return visible

    def __call__(
        self,
        images: Float[Array, "batch height width 3"],
        order: Int[Array, "batch patches"],
        *,
        train: bool = False,
    ) -> Float32[Array, "batch patches pixels"]:
        """The pixels of every patch, row by row, as painted from the patches that come first in `order`.

        order: a permutation of the patches for each image; `num_visible` of them are seen (section 3).
        """
        x, (rows, columns) = self._embedded(images)
        visible = order[:, : self.num_visible(rows * columns)]
        seen = jnp.take_along_axis(x, visible[:, :, None], axis=1)
        encoded = self.decoder_embedding(self.encoder(self._with_cls(seen), train=train))
        hidden = jnp.broadcast_to(self.mask_token, (len(x), rows * columns - visible.shape[1], self.decoder_width))
        shuffled = jnp.concatenate([encoded[:, 1:], hidden.astype(encoded.dtype)], axis=1)
        canvas = jnp.take_along_axis(shuffled, jnp.argsort(order)[:, :, None], axis=1)  # every patch at its place again
        canvas += sincos_2d(rows, columns, self.decoder_width, longest=self.longest_wave).astype(encoded.dtype)
        painted = self.decoder(jnp.concatenate([encoded[:, :1], canvas], axis=1), train=train)
        return self.head(painted[:, 1:])

    def pooled_features(self, images: Float[Array, "batch height width 3"]) -> Float[Array, "batch features"]:
        """The encoder's output for whole images, averaged over the patches."""
        x, _ = self._embedded(images)
        return self.encoder(self._with_cls(x))[:, 1:].mean(axis=1)

    def _embedded(self, images: Array) -> tuple[Array, tuple[int, int]]:
        x = self.patch_embedding(images)
        batch, rows, columns, width = x.shape
        positions = sincos_2d(rows, columns, width, longest=self.longest_wave)
        return x.reshape(batch, rows * columns, width) + positions.astype(x.dtype), (rows, columns)

    def _with_cls(self, x: Array) -> Array:
        return jnp.concatenate([jnp.broadcast_to(self.cls_token, (len(x), 1, self.width)).astype(x.dtype), x], axis=1)
