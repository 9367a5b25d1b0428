"""The Vision Transformer of "An Image Is Worth 16x16 Words" (Dosovitskiy et al. 2021)."""

import functools
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from research.errors import UserError
from research.layers.embedding import PatchEmbedding, float32_dot_general
from research.layers.positions import sincos_2d
from research.layers.transformer import TransformerLayer, TransformerStack

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


class ViT(nn.Module):
    """Encoder over the patches of an image, with a linear classification head.

    Fields:
        num_classes: 0 leaves out the head and returns the pooled features in the compute dtype.
        pool: the class token's output, or the mean over patches (no class token then).
        positions: one table for the image size that the model was initialised with.
    """

    num_classes: int
    patch_size: int
    width: int
    num_layers: int
    num_heads: int
    mlp_width: int
    pool: Literal["cls", "mean"] = "cls"
    positions: Literal["learned", "sincos2d"] = "learned"
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    norm_epsilon: float = 1e-6
    remat: Literal["none", "full", "matmuls"] = "none"
    scan: bool = False

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Logits of the classes, float32. The images are cast to the dtype of the parameters."""
        x = PatchEmbedding(self.patch_size, self.width, name="patch_embedding")(images)
        batch, rows, columns, width = x.shape
        x = x.reshape(batch, rows * columns, width)
        if self.positions == "sincos2d":
            x += sincos_2d(rows, columns, width).astype(x.dtype)
        if self.pool == "cls":
            cls_token = self.param("cls_token", nn.initializers.zeros, (width,))
            x = jnp.concatenate([jnp.broadcast_to(cls_token, (batch, 1, width)), x], axis=1)
        if self.positions == "learned":
            x += self._position_embedding(x.shape[1])
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        layer = functools.partial(
            TransformerLayer,
            num_heads=self.num_heads,
            mlp_width=self.mlp_width,
            activation="gelu",
            norm="pre",
            norm_epsilon=self.norm_epsilon,
            dropout=self.dropout,
        )
        stack = TransformerStack(
            layer,
            self.num_layers,
            stochastic_depth=self.stochastic_depth,
            remat=self.remat,
            scan=self.scan,
            final_norm=True,
            name="encoder",
        )
        x = stack(x, train=train)
        x = x[:, 0] if self.pool == "cls" else x.mean(axis=1)
        if not self.num_classes:
            return x
        return nn.Dense(
            self.num_classes, kernel_init=nn.initializers.zeros, dot_general=float32_dot_general, name="head"
        )(x)

    def _position_embedding(self, tokens: int) -> Float[Array, "tokens width"]:
        if self.has_variable("params", "position_embedding"):
            trained = len(self.get_variable("params", "position_embedding"))
            if trained != tokens:
                raise UserError(
                    f"the image makes {tokens} tokens, the model's position table has {trained}: "
                    "use the image size that the model was initialised with"
                )
        return self.param("position_embedding", nn.initializers.normal(0.02), (tokens, self.width))
