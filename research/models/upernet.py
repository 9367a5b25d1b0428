"""UPerNet: a pyramid of features for semantic segmentation (Xiao et al. 2018, "Unified perceptual parsing")."""

from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from research.errors import UserError
from research.layers.convolution import ConvNorm
from research.layers.embedding import classifier
from research.models.contract import Levels
from research.ranges import NESTED, Size

INIT = nn.initializers.truncated_normal(0.02)


class UPerNet(nn.Module):
    """A class for each pixel, from all levels of a backbone, each of which learns from the coarser ones (figure 4).

    Fields:
        backbone: a section like `model`, of a model with feature levels, such as resnet with num_classes 0, or swin,
            whose `norm_levels` the published models have.
        width: channels of all layers behind the backbone.
        pool_scales: rows, and columns, of the grids that the coarsest level is averaged to (Zhao et al. 2017).
    """

    num_classes: Size
    backbone: Annotated[Any, NESTED]
    width: Size = 512
    pool_scales: tuple[Size, ...] = (1, 2, 3, 6)

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch height width classes"]:
        """Logits of the classes of each pixel, float32; computed at the finest level's size and enlarged bilinearly."""
        if not isinstance(self.backbone, Levels):
            raise UserError("model.backbone has no feature levels: use swin, resnet, vit or another image backbone")
        *fine, coarsest = self.backbone.levels(images, train=train)
        pyramid = [self._layer(level, 1, f"lateral_{number}", train) for number, level in enumerate(fine)]
        pyramid.append(self._pooled(coarsest, train))
        for number in reversed(range(len(fine))):
            pyramid[number] += _resized(pyramid[number + 1], pyramid[number])
        maps = [self._layer(level, 3, f"smooth_{number}", train) for number, level in enumerate(pyramid[:-1])]
        maps.append(pyramid[-1])
        x = jnp.concatenate([_resized(level, maps[0]) for level in maps], axis=-1)
        x = self._layer(x, 3, "fuse", train)
        logits = classifier(self.num_classes, kernel_init=INIT, name="head")(x)
        return _resized(logits, images)

    def _layer(self, x: Array, kernel: int, name: str, train: bool) -> Array:
        return jax.nn.relu(ConvNorm(self.width, kernel, name=name)(x, train=train))

    def _pooled(self, x: Array, train: bool) -> Array:
        """The pyramid pooling module of the coarsest level (section 3.1)."""
        parts = [x]
        for number, count in enumerate(self.pool_scales):
            rows, columns = (_averages(length, count) for length in x.shape[1:3])
            means = jnp.einsum("rh,bhwc,sw->brsc", rows.astype(x.dtype), x, columns.astype(x.dtype))
            parts.append(_resized(self._layer(means, 1, f"pool_{number}", train), x))
        return self._layer(jnp.concatenate(parts, axis=-1), 3, "pooled", train)


def _averages(length: int, count: int) -> np.ndarray:
    """What gives the means of `count` parts of an axis, which overlap where it is no multiple, [count, length]."""
    places, part = np.arange(length), np.arange(count)[:, None]
    inside = (places >= part * length // count) & (places < -(-(part + 1) * length // count))
    return inside / inside.sum(axis=1, keepdims=True)


def _resized(x: Float[Array, "batch _ _ channels"], like: Float[Array, "batch rows columns _"]) -> Array:
    """Bilinear, to the other's rows and columns, from the nearest places alone also where it becomes smaller."""
    return jax.image.resize(x, (*like.shape[:3], x.shape[-1]), "bilinear", antialias=False)
