"""Which of our models reads which of timm's names."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from research.errors import UserError
from research.models.efficientformer import EfficientFormer
from research.models.mobilenet import MobileNet
from research.models.resnet import ResNet
from research.models.swin import Swin
from research.models.vit import ViT
from research.pretrained import efficientformer, mobilenet, resnet, swin, vit
from research.pretrained.convert import convert


def from_timm(weights: Mapping[str, np.ndarray], model: Any) -> dict[str, np.ndarray]:
    """The weights of a timm model by the paths of ours. Raises UserError where they are not of such a model."""
    match model:
        case ViT():
            rename = functools.partial(vit.rename, num_heads=model.num_heads)
        case ResNet():
            rename = functools.partial(resnet.rename, bottleneck=model.bottleneck)
        case MobileNet():
            rename = functools.partial(mobilenet.rename, version=model.version)
        case EfficientFormer():
            options = {"depths": model.depths, "num_attention": model.num_attention}
            rename = functools.partial(efficientformer.rename, **options)
        case Swin():
            rename = functools.partial(swin.rename, num_heads=model.num_heads)
        case _:
            raise UserError(f"transfer.source has timm's names, which {type(model).__name__} does not read: convert it")
    return convert(weights, rename)
