"""Embeddings of tokens and of image patches, and the projection to logits."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int

from research.errors import UserError
from research.layers.convolution import to_kernel_dtype
from research.parallel.mesh import whole_rows

float32_dot_general = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)
"""For a `nn.Dense` that makes logits: float32 results whatever the inputs' dtype."""

classifier = functools.partial(nn.Dense, kernel_init=nn.initializers.zeros, dot_general=float32_dot_general)
"""The projection of an image's features to float32 logits; all classes are equally probable at first."""


class TokenEmbedding(nn.Module):
    """A vector for each token, multiplied by sqrt(width) with `scale` (Vaswani et al. 2017, section 3.4)."""

    vocab_size: int
    width: int
    scale: bool = False

    def setup(self):
        deviation = self.width**-0.5 if self.scale else 0.02
        self.embedding = self.param("embedding", nn.initializers.normal(deviation), (self.vocab_size, self.width))

    def __call__(self, tokens: Int[Array, "*lengths"]) -> Float[Array, "*lengths width"]:
        """Vectors of the tokens; a token from `vocab_size` on gives NaN."""
        x = jnp.take(whole_rows(self.embedding), tokens, axis=0)
        return x * self.width**0.5 if self.scale else x


def vocabulary_logits(
    x: Float[Array, "*lengths width"], table: Float[Array, "vocab width"]
) -> Float32[Array, "*lengths vocab"]:
    """Logits of the tokens: the table of an embedding, as a projection (Press & Wolf 2017)."""
    return jnp.einsum("...d,vd->...v", x, table, preferred_element_type=jnp.float32)


class PatchEmbedding(nn.Module):
    """A linear projection of each square of `patch_size` pixels (Dosovitskiy et al. 2021, equation 1)."""

    patch_size: int
    width: int
    use_bias: bool = True

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch rows columns features"]:
        height, width = images.shape[1:3]
        if height % self.patch_size or width % self.patch_size:
            raise UserError(
                f"an image of {height} x {width} pixels is not divisible into patches of {self.patch_size}: "
                "use another patch_size or image size"
            )
        rows, columns = height // self.patch_size, width // self.patch_size
        patches = images.reshape(images.shape[0], rows, self.patch_size, columns, self.patch_size, -1).swapaxes(2, 3)
        # As a product: the compiler counts the gradient of a strided convolution twice on some meshes.
        project = nn.DenseGeneral(
            self.width,
            axis=(-3, -2, -1),
            use_bias=self.use_bias,
            promote_dtype=to_kernel_dtype,
            name="projection",
        )
        return project(patches)
