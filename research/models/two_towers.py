"""Two towers, one for images and one for texts, whose vectors meet in one space: CLIP (Radford et al. 2021) and SigLIP
(Zhai et al. 2023)."""

import math
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from research.errors import UserError
from research.models.contract import Levels, TextEncoder
from research.models.text_head import pooled
from research.ranges import NESTED, Number, Positive, Size


class TwoTowers(nn.Module):
    """An image and a text as vectors of length 1, and the logit that they belong together: scale · cosine + bias.

    CLIP's ViT-B/32 is a `vit` with input_norm and a `gpt` of width 512 with 8 heads, both with norm_epsilon 1e-5 and
    activation "quick_gelu". SigLIP's B/16 is a `vit` with pool "attention" and a `gpt` with causal False, both with
    activation "gelu_tanh" and norm_epsilon 1e-6, projected "text", read_padding, and no limit.

    Fields:
        image: a section like `model`, of an image backbone with num_classes 0, whose pooled features are projected.
        text: the same of a model that gives states of tokens, `gpt` or `bert`.
        width: of the vectors.
        pool: how a text's states become one: "last" is that of its end token, which CLIP's causal tower needs.
        scale: of the cosines at first, learned as its logarithm: 1 / 0.07 of CLIP, 10 of SigLIP.
        bias: of the logits at first, -10 of SigLIP; None has none.
        limit: what the scale is held at (Radford et al. 2021, section 2.5); None holds it at nothing, as SigLIP.
        projected: both towers' vectors, without biases, or as in SigLIP those of texts alone, with a bias: those of
            images have the width already.
        read_padding: padding is read as any other token, and `pool` takes it for part of the text; then the length of
            the rows is part of a model, 64 of SigLIP.
    """

    image: Annotated[Any, NESTED]
    text: Annotated[Any, NESTED]
    width: Size = 512
    pool: Literal["last", "cls", "mean", "max"] = "last"
    scale: Positive = 1 / 0.07
    bias: Number | None = None
    limit: Positive | None = 100.0
    projected: Literal["both", "text"] = "both"
    read_padding: bool = False

    @property
    def patch_size(self) -> int:
        """Pixels on a side of what the image tower's tokens stand for; 1 where it does not say."""
        return self.image.strides[-1] if isinstance(self.image, Levels) else 1

    @property
    def special_tokens(self) -> int:
        """The image tower's, before its patches."""
        return getattr(self.image, "special_tokens", 0)

    def setup(self):
        if getattr(self.image, "num_classes", 0):
            raise UserError(f"model.image.num_classes is {self.image.num_classes}: use 0, since vectors need no head")
        if not isinstance(self.text, TextEncoder):
            raise UserError(
                f"model.text {type(self.text).__name__} gives no states of a text's tokens: use gpt or bert"
            )
        if self.projected == "both":
            self.image_projection = nn.Dense(self.width, use_bias=False)
        self.text_projection = nn.Dense(self.width, use_bias=self.projected == "text")
        self.log_scale = self.param("log_scale", nn.initializers.constant(math.log(self.scale)), ())
        if self.bias is not None:
            self.logit_bias = self.param("logit_bias", nn.initializers.constant(self.bias), ())

    def __call__(
        self,
        images: Float[Array, "images height width channels"],
        tokens: Int[Array, "texts length"],
        valid: Bool[Array, "texts length"],
        *,
        train: bool = False,
    ) -> Float32[Array, "images texts"]:
        """The logit of each image with each text. valid: which tokens are not padding, which stands behind them."""
        scale, bias = self.scale_and_bias()
        vectors = self.image_vectors(images, train=train), self.text_vectors(tokens, valid, train=train)
        return scale * vectors[0] @ vectors[1].T + bias

    def image_vectors(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float32[Array, "batch features"]:
        """Vectors of length 1. Raises UserError where they are not projected and have another width."""
        features = self.image(images, train=train)
        if self.projected == "both":
            return normalised(self.image_projection(features))
        if (width := features.shape[-1]) != self.width:
            raise UserError(f"model.image gives {width} numbers and model.width is {self.width}: set it to {width}")
        return normalised(features)

    def pooled_features(self, images: Float[Array, "batch height width channels"]) -> Float[Array, "batch features"]:
        """Those of the image tower before they are projected, on which Radford et al. 2021 fit their linear probes."""
        return self.image(images)

    def text_vectors(
        self, tokens: Int[Array, "batch length"], valid: Bool[Array, "batch length"], *, train: bool = False
    ) -> Float32[Array, "batch features"]:
        """Vectors of length 1."""
        valid = jnp.ones_like(valid) if self.read_padding else valid
        states = self.text.text_states(tokens, valid, train=train)
        return normalised(self.text_projection(pooled(states, valid, self.pool)))

    def scale_and_bias(self, *, train: bool = False) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
        """What a cosine is multiplied by, and what is added then."""
        log_scale = self.log_scale.astype(jnp.float32)
        held = log_scale if self.limit is None else jnp.minimum(log_scale, math.log(self.limit))
        # The gradient is that of what is not held: else nothing would lead back from beyond the limit.
        scale = jnp.exp(log_scale + jax.lax.stop_gradient(held - log_scale))
        return scale, jnp.float32(0) if self.bias is None else self.logit_bias.astype(jnp.float32)


def normalised(x: Float[Array, "*batch width"]) -> Float32[Array, "*batch width"]:
    """Vectors of length 1."""
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
