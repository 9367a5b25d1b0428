"""The backbone of a published model of detection or segmentation: its `backbone_config`, and the section of ours."""

import re
from collections.abc import Mapping
from typing import Any

from research.errors import UserError
from research.models import resnet
from research.models.resnet import ResNet
from research.weights.fields import Field, Fields

RESNET = Fields(
    (
        Field("depths", "depths", (3, 4, 6, 3)),
        Field("width", "embedding_size", 64),
        Field("bottleneck", "layer_type", "bottleneck", {"bottleneck": True, "basic": False}),
    ),
    {"hidden_act": "relu", "downsample_in_first_stage": False, "downsample_in_bottleneck": False, "num_channels": 3},
)


def resnet_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Our ResNet for a `backbone_config` of transformers' or timm's. Raises UserError for another model."""
    if config.get("model_type") == "timm_backbone":
        return _timm(config)
    fields = RESNET.ours(config)
    depths, width = fields["depths"], fields["width"]
    if not isinstance(depths, list | tuple) or not depths or not isinstance(width, int):
        raise UserError("config.json has a ResNet without numbers for depths and embedding_size: restore it")
    sizes = [(4 if fields["bottleneck"] else 1) * width * 2**stage for stage in range(len(depths))]
    if (there := config.get("hidden_sizes", [256, 512, 1024, 2048])) != sizes:
        raise UserError(f"config.json has hidden_sizes {str(there)[:40]}: only {sizes} are known with its other sizes")
    _check_last(config, len(depths))
    return {"name": "resnet", "num_classes": 0, **fields}


def _timm(config: Mapping[str, Any]) -> dict[str, Any]:
    name, known = str(config.get("backbone")), [f"resnet{size}" for size in resnet.SIZES]
    found = re.fullmatch(r"resnet(\d+)(\..*)?", name)
    if not found or found[1] not in resnet.SIZES:
        raise UserError(f"config.json has timm's backbone {name[:40]!r}: only {', '.join(known)} are known here")
    if config.get("num_channels", 3) != 3 or config.get("output_stride") not in (None, 32):
        raise UserError("config.json has a backbone of other channels or strides: only 3 colours and 32 are known here")
    _check_last(config, 4)
    return {"name": "resnet", "num_classes": 0, **resnet.fields(found[1])}


def _check_last(config: Mapping[str, Any], stages: int) -> None:
    last = config.get("out_indices") or [stages]
    if not isinstance(last, list) or last[-1] not in (stages, -1):
        raise UserError(f"config.json takes level {str(last)[:40]} of its backbone: only the last one is known here")


def resnet_written(model: ResNet) -> dict[str, Any]:
    """transformers' `backbone_config` of our ResNet, of which the last level is taken."""
    stages = len(model.depths)
    sizes = [(4 if model.bottleneck else 1) * model.width * 2**stage for stage in range(stages)]
    levels = {"out_features": [f"stage{stages}"], "out_indices": [stages]}
    return {"model_type": "resnet", **RESNET.theirs(vars(model)), "hidden_sizes": sizes, **levels}
