"""The norms of Transformers: LayerNorm (Ba et al. 2016) and RMSNorm (Zhang & Sennrich 2019)."""

from typing import Literal

import flax.linen as nn

from research.errors import UserError

NormKind = Literal["layer", "rms"]


def make_norm(kind: NormKind, *, epsilon: float, use_bias: bool, name: str) -> nn.Module:
    """A norm over the last axis, whose statistics are float32, with a parameter `scale` and maybe a `bias`.

    "layer" is (x - mean) / sqrt(variance + epsilon) · scale + bias. "rms" is x / sqrt(mean(x²) + epsilon) · scale
    (equation 4): it raises UserError with `use_bias`, since it has none.
    """
    if kind == "layer":
        return nn.LayerNorm(epsilon=epsilon, use_bias=use_bias, name=name)
    if use_bias:
        raise UserError("norm_kind 'rms' has no bias: leave norm_bias out or set it to false")
    return nn.RMSNorm(epsilon=epsilon, name=name)
