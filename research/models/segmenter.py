"""Segmenter: Transformers for semantic segmentation (Strudel et al. 2021)."""

import functools
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from research.errors import UserError
from research.layers.embedding import classifier
from research.layers.transformer import TransformerLayer, TransformerStack
from research.models.contract import Levels
from research.ranges import NESTED, Layers, Rate, Size

EPSILON = 1e-5
LEAST_CLASSES = 3
INIT = nn.initializers.truncated_normal(0.02)


class Segmenter(nn.Module):
    """A class for each pixel: an encoder of patches, a decoder, and bilinear interpolation to the image's size.

    Fields:
        encoder: a section like `model`, of a model with feature levels, the last of which is decoded; `vit` in the
            paper, with num_classes 0.
        decoder: "linear", a projection of each patch (section 3.2.1), or "mask", a Transformer over the patches and one
            learned embedding for each class: a patch's logit of a class is the product of both outputs, normalised
            (section 3.2.2). That norm is over the classes, of which there have to be three: of two it leaves a sign.
        num_layers, width, num_heads, mlp_width: of the mask Transformer; width and mlp_width are those of the encoder's
            level, and 4 times that, unless given.
    """

    num_classes: Size
    encoder: Annotated[Any, NESTED]
    decoder: Literal["linear", "mask"] = "mask"
    num_layers: Layers = 2
    width: Size | None = None
    num_heads: Size | None = None
    mlp_width: Size | None = None
    dropout: Rate = 0.1

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch height width classes"]:
        """Logits of the classes of each pixel, float32."""
        if not isinstance(self.encoder, Levels):
            raise UserError("model.encoder has no feature levels: use vit, swin, resnet or another image backbone")
        if self.decoder == "mask" and self.num_classes < LEAST_CLASSES:
            raise UserError(
                f"model.decoder 'mask' normalises over the classes, and {self.num_classes} are too few for that: use "
                "'linear'"
            )
        level = self.encoder.levels(images, train=train)[-1]
        if self.decoder == "linear":
            logits = classifier(self.num_classes, kernel_init=INIT, name="head")(level)
        else:
            logits = self._masks(level, train)
        return jax.image.resize(logits, (*images.shape[:3], self.num_classes), "bilinear")

    def _masks(
        self, level: Float[Array, "batch rows columns channels"], train: bool
    ) -> Float[Array, "batch rows columns classes"]:
        batch, rows, columns, channels = level.shape
        width = self.width or channels
        patches = nn.Dense(width, kernel_init=INIT, name="project")(level.reshape(batch, rows * columns, channels))
        classes = self.param("class_embedding", INIT, (self.num_classes, width)).astype(patches.dtype)
        x = jnp.concatenate([patches, jnp.broadcast_to(classes, (batch, *classes.shape))], axis=1)
        layer = functools.partial(
            TransformerLayer,
            num_heads=self.num_heads or max(width // 64, 1),
            mlp_width=self.mlp_width or 4 * width,
            activation="gelu",
            norm="pre",
            norm_epsilon=EPSILON,
            dropout=self.dropout,
            kernel_init=INIT,
            out_init=INIT,
        )
        x = TransformerStack(layer, self.num_layers, final_norm=True, name="decoder")(x, train=train)
        patches, classes = (
            _normalised(
                nn.Dense(width, use_bias=False, kernel_init=nn.initializers.normal(width**-0.5), name=name)(part)
            )
            for name, part in (
                ("patch_projection", x[:, : -self.num_classes]),
                ("class_projection", x[:, -self.num_classes :]),
            )
        )
        products = jnp.einsum("bpd,bcd->bpc", patches, classes)
        masks = nn.LayerNorm(epsilon=EPSILON, name="mask_norm")(products)
        return masks.astype(jnp.float32).reshape(batch, rows, columns, self.num_classes)


def _normalised(x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
    """Vectors of length 1, float32."""
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
