"""The Compact Vision Transformer of "Escaping the Big Data Paradigm" (Hassani et al. 2021)."""

import functools

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from research.layers.embedding import PatchEmbedding, classifier
from research.layers.transformer import TransformerLayer, TransformerStack


class CVT(nn.Module):
    """A Vision Transformer without a class token: a learned weight for each patch pools them (section 3.2).

    Fields:
        num_classes: 0 leaves out the head and returns the pooled features.
    """

    num_classes: int
    patch_size: int
    width: int
    num_layers: int
    num_heads: int
    mlp_width: int
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Logits of the classes, float32."""
        x = PatchEmbedding(self.patch_size, self.width, name="patch_embedding")(images)
        x = x.reshape(len(x), -1, self.width)
        x += self.param("position_embedding", nn.initializers.normal(0.02), x.shape[1:])
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        layer = functools.partial(
            TransformerLayer,
            num_heads=self.num_heads,
            mlp_width=self.mlp_width,
            activation="gelu",
            norm="pre",
            dropout=self.dropout,
        )
        x = TransformerStack(layer, self.num_layers, final_norm=True, name="encoder")(x, train=train)
        weights = jax.nn.softmax(nn.Dense(1, name="pool")(x), axis=1)
        pooled = (weights * x).sum(axis=1)
        return classifier(self.num_classes, name="head")(pooled) if self.num_classes else pooled
