"""An image in, a text out: the decoder of "Attention Is All You Need" over the features of an image backbone.

As in "Show, Attend and Tell" (Xu et al. 2015) the decoder attends to places of the image; here both are Transformers.
"""

from typing import Annotated, Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int

from research.errors import UserError
from research.layers.embedding import vocabulary_logits
from research.models.contract import Levels
from research.models.seq2seq import Seq2Seq
from research.ranges import NESTED


class Captioner(Seq2Seq, kw_only=True):
    """`Seq2Seq` with an image backbone in the place of its encoder; its fields are the decoder's.

    Fields:
        image: a section like `model`, of a model with feature levels, the last of which the decoder attends to; `vit`
            with num_classes 0.
    """

    image: Annotated[Any, NESTED]

    @property
    def patch_size(self) -> int:
        """Pixels on a side of what the decoder attends to."""
        return self.image.strides[-1]

    @property
    def special_tokens(self) -> int:
        """Those of the backbone, before its patches; the decoder attends to patches alone."""
        return getattr(self.image, "special_tokens", 0)

    def setup(self):
        super().setup()
        if not isinstance(self.image, Levels):
            raise UserError("model.image has no feature levels: use vit, swin, resnet or another image backbone")
        self.project = nn.Dense(self.width)

    def __call__(  # pyrefly: ignore[bad-override]
        self,
        images: Float[Array, "batch height width channels"],
        target: Int[Array, "batch target"],
        *,
        train: bool = False,
    ) -> Float32[Array, "batch target vocab"]:
        """Logits of the token that follows each token of the target (which starts with the start marker)."""
        return vocabulary_logits(*self.features(images, target, train=train))

    def features(  # pyrefly: ignore[bad-override]
        self,
        images: Float[Array, "batch height width channels"],
        target: Int[Array, "batch target"],
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "batch target features"], Float[Array, "vocab features"]]:
        """What the logits of `__call__` are the product of: a state for each token, and the output table."""
        memory = self.encode(images, train=train)
        return self._output(self._decode(target, memory, jnp.ones(memory.shape[:2], bool), train=train))

    def encode(  # pyrefly: ignore[bad-override]
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch places features"]:
        """The image's last level, row by row, which the decoder attends to."""
        level = self.image.levels(images, train=train)[-1]
        return self.project(level.reshape(level.shape[0], -1, level.shape[-1]))
