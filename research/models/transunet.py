"""TransUNet: a U-Net whose narrowest part is a Vision Transformer (Chen et al. 2021)."""

from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from research.errors import UserError
from research.layers.convolution import ConvNorm, convolution
from research.models.contract import Levels
from research.models.unet import Block
from research.ranges import NESTED, Size


class TransUNet(nn.Module):
    """Convolutions, a Transformer over the last of their maps, and a cascade that doubles the size up to the image's.

    R50-ViT-B/16 of section 4.2 is a `resnet` with the depths (3, 4, 9), bottlenecks and stem_level, and a `vit` of the
    size B with patch_size 1. The authors' ResNet normalises groups of channels and kernels, this one batches.

    Fields:
        backbone: a section like `model`, of a model with feature levels, such as resnet, with num_classes 0. A step of
            the cascade is joined with the level of its size, if there is one (section 3.2.2).
        encoder: the same, of what reads the last level as if it were an image: vit, whose patch_size is 1 in the paper
            (section 3.2.1).
        widths: channels of the cascade: at the size of the encoder's map, and after each doubling.
    """

    num_classes: Size
    backbone: Annotated[Any, NESTED]
    encoder: Annotated[Any, NESTED]
    widths: tuple[Size, ...] = (512, 256, 128, 64, 16)

    @property
    def patch_size(self) -> int:
        """Pixels on a side of what a token of the encoder stands for."""
        return self.backbone.strides[-1] * self.encoder.strides[-1]

    @property
    def special_tokens(self) -> int:
        """The encoder's, before its patches."""
        return getattr(self.encoder, "special_tokens", 0)

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch height width classes"]:
        """Logits of the classes of each pixel, float32."""
        for name, model in (("backbone", self.backbone), ("encoder", self.encoder)):
            if not isinstance(model, Levels):
                raise UserError(f"model.{name} has no feature levels: use resnet, vit or another image backbone")
        stride = self.patch_size
        if stride != 2 ** (len(self.widths) - 1):
            raise UserError(
                f"model.widths has {len(self.widths)} entries and the encoder's map is {stride} times smaller than the "
                "image: give one entry, and one more for each doubling"
            )
        height, width = images.shape[1:3]
        if height % stride or width % stride:
            raise UserError(f"an image of {height} x {width} pixels does not suit: use multiples of {stride}")
        levels = self.backbone.levels(images, train=train)
        skips = dict(zip(self.backbone.strides, levels, strict=True))
        x = self.encoder.levels(levels[-1], train=train)[-1]
        x = jax.nn.relu(ConvNorm(self.widths[0], 3, name="widen")(x, train=train))
        for step, channels in enumerate(self.widths[1:]):
            stride //= 2
            batch, rows, columns, features = x.shape
            x = jax.image.resize(x, (batch, 2 * rows, 2 * columns, features), "bilinear")
            if stride in skips:
                x = jnp.concatenate([x, skips[stride]], axis=-1)
            x = Block(channels, name=f"decoder_{step}")(x, train=train)
        head = nn.Conv(
            self.num_classes, (3, 3), padding=1, dtype=jnp.float32, conv_general_dilated=convolution, name="head"
        )
        return head(x)
