"""DETR: object detection as the prediction of a set (Carion et al. 2020)."""

import functools
import math
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.errors import UserError
from research.layers.embedding import classifier
from research.layers.masks import padding_mask
from research.layers.positions import sinusoidal
from research.layers.transformer import TransformerLayer, TransformerStack
from research.models.contract import Levels
from research.ranges import NESTED, Layers, Rate, Size

EPSILON = 1e-5
INIT = nn.initializers.xavier_uniform()


class DETR(nn.Module):
    """A backbone, an encoder of its last level, and a decoder whose queries each answer with a class and a box.

    Fields:
        num_classes: those of the data; "no object" is one more, the last (section 3.1).
        backbone: a section like `model`, of a model with feature levels, such as resnet or vit with num_classes 0.
        num_queries: the most objects that an image may have.
        dropout: of what sub-layers give; attention_dropout, activation_dropout: of attention weights and of the
            feed-forward networks' hidden layer, the same unless given.
    """

    num_classes: Size
    backbone: Annotated[Any, NESTED]
    num_queries: Size = 100
    width: Size = 256
    num_heads: Size = 8
    encoder_layers: Layers = 6
    decoder_layers: Layers = 6
    mlp_width: Size = 2048
    dropout: Rate = 0.1
    attention_dropout: Rate | None = None
    activation_dropout: Rate | None = None

    @property
    def patch_size(self) -> int:
        """Pixels on a side of what a token of the encoder stands for."""
        return self.backbone.strides[-1]

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        sizes: Int[Array, "batch 2"] | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "layers batch queries classes"], Float[Array, "layers batch queries 4"]]:
        """Logits of the classes, with "no object", and boxes of every decoder layer, float32.

        sizes: height and width in pixels of what the images show, from their upper left corner; the rest is padding,
        which is not attended to. A box is its centre (x, y), width and height, as fractions of that size.
        """
        if not isinstance(self.backbone, Levels):
            raise UserError("model.backbone has no feature levels: use resnet, vit, swin or another image backbone")
        if self.width % 4:
            raise UserError(f"model.width {self.width} is not a multiple of 4, which positions in two axes need")
        level = self.backbone.levels(images, train=train)[-1]
        batch, rows, columns, _ = level.shape
        if sizes is None:
            sizes = jnp.broadcast_to(jnp.array(images.shape[1:3]), (batch, 2))
        positions, valid = grid_positions(-(-sizes // self.backbone.strides[-1]), (rows, columns), self.width)
        mask = padding_mask(valid)
        x = nn.Dense(self.width, kernel_init=INIT, name="project")(level.reshape(batch, rows * columns, -1))
        encoder = TransformerStack(self._layer(), self.encoder_layers, name="encoder")
        memory = encoder(x, mask=mask, embedding=positions, train=train)
        queries = self.param("query_embedding", nn.initializers.normal(1.0), (self.num_queries, self.width))
        layer = self._layer(cross_attention=True)
        decoder = TransformerStack(layer, self.decoder_layers, final_norm=True, name="decoder")
        states = decoder(
            jnp.zeros((batch, *queries.shape), x.dtype),
            memory,
            memory_mask=mask,
            embedding=queries[None],
            memory_embedding=positions,
            every_layer=True,
            train=train,
        )
        logits = classifier(self.num_classes + 1, kernel_init=INIT, name="head")(states)
        for index in range(2):
            states = jax.nn.relu(nn.Dense(self.width, kernel_init=INIT, name=f"box_{index}")(states))
        return logits, jax.nn.sigmoid(classifier(4, kernel_init=INIT, name="box_2")(states))

    def _layer(self, **options: Any) -> functools.partial:
        return functools.partial(
            TransformerLayer,
            num_heads=self.num_heads,
            mlp_width=self.mlp_width,
            norm_epsilon=EPSILON,
            dropout=self.dropout,
            attention_dropout=self.dropout if self.attention_dropout is None else self.attention_dropout,
            activation_dropout=self.dropout if self.activation_dropout is None else self.activation_dropout,
            **options,
        )


def grid_positions(
    extents: Int[Array, "batch 2"], grid: tuple[int, int], width: int
) -> tuple[Float[Array, "batch tokens {width}"], Bool[Array, "batch tokens"]]:
    """Sinusoidal positions of a grid's places, row by row, and which of them are within each image's extent.

    extents: rows and columns that an image fills. One half of the channels is of the row, one of the column, each
    counted from 1 and scaled so that the image's last one is at 2π (section 4.2, and appendix A.4).
    """
    rows, columns = grid

    def along(count: int, extent: Array) -> tuple[Array, Array]:
        places = jnp.arange(1, count + 1)
        table = sinusoidal(2 * math.pi * places / extent[:, None].astype(jnp.float32), width // 2)
        return table, places <= extent[:, None]

    (by_row, row_valid), (by_column, column_valid) = along(rows, extents[:, 0]), along(columns, extents[:, 1])
    shape = (extents.shape[0], rows, columns, width // 2)
    halves = [jnp.broadcast_to(by_row[:, :, None], shape), jnp.broadcast_to(by_column[:, None], shape)]
    valid = row_valid[:, :, None] & column_valid[:, None]
    return jnp.concatenate(halves, axis=-1).reshape(extents.shape[0], -1, width), valid.reshape(extents.shape[0], -1)
