"""U-Net (Ronneberger et al. 2015), padded and batch-normalised as in today's implementations."""

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from research.errors import UserError
from research.layers.convolution import ConvNorm, to_kernel_dtype
from research.layers.embedding import classifier
from research.layers.pooling import max_pool
from research.parallel.mesh import shard_batch
from research.ranges import Layers, Size


class Block(nn.Module):
    """Twice a 3x3 convolution, batch normalisation and ReLU."""

    channels: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch height width features"]:
        for name in ("first", "second"):
            x = jax.nn.relu(ConvNorm(self.channels, 3, name=name)(x, train=train))
        return shard_batch(x)


class Enlarge(nn.Module):
    """The 2x2 up-convolution of figure 1: every position becomes four, each by a projection of its own."""

    channels: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch 2*height 2*width features"]:
        batch, height, width, _ = x.shape
        # As a product: the compiler counts the gradient of a strided convolution twice on some meshes.
        x = nn.DenseGeneral((2, 2, self.channels), promote_dtype=to_kernel_dtype, name="conv")(x)
        return x.swapaxes(2, 3).reshape(batch, 2 * height, 2 * width, self.channels)


class UNet(nn.Module):
    """Convolutions that halve the image and double the channels, and back, with every size joined to its own.

    Unlike in the paper, convolutions are padded, so that the answer has the image's size, and batch-normalised.

    Fields:
        width: channels at the image's own size. depth: times that the image is halved, whose sides 2^depth divides.
    """

    num_classes: Size
    width: Size = 64
    depth: Layers = 4

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch height width classes"]:
        """Logits of the classes of each pixel, float32."""
        height, width = images.shape[1:3]
        if height % 2**self.depth or width % 2**self.depth:
            raise UserError(
                f"an image of {height} x {width} pixels cannot be halved model.depth {self.depth} times: use multiples "
                f"of {2**self.depth}"
            )
        x, skips = Block(self.width, name="encoder_0")(images, train=train), []
        for level in range(1, self.depth + 1):
            skips.append(x)
            x = max_pool(x, window=2, stride=2)
            x = Block(self.width * 2**level, name=f"encoder_{level}")(x, train=train)
        for level in reversed(range(self.depth)):
            x = Enlarge(self.width * 2**level, name=f"enlarge_{level}")(x)
            x = jax.numpy.concatenate([skips[level], x], axis=-1)
            x = Block(self.width * 2**level, name=f"decoder_{level}")(x, train=train)
        return classifier(self.num_classes, kernel_init=nn.initializers.lecun_normal(), name="head")(x)
