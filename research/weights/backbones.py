"""The backbone of a published model of detection or segmentation: its `backbone_config`, and the section of ours."""

import re
from collections.abc import Mapping
from typing import Any

from research.errors import UserError
from research.models import resnet
from research.models.resnet import ResNet
from research.models.swin import Swin
from research.weights.fields import Field, Fields

RESNET = Fields(
    (
        Field("depths", "depths", (3, 4, 6, 3)),
        Field("width", "embedding_size", 64),
        Field("bottleneck", "layer_type", "bottleneck", {"bottleneck": True, "basic": False}),
    ),
    {"hidden_act": "relu", "downsample_in_first_stage": False, "downsample_in_bottleneck": False, "num_channels": 3},
)
SWIN = Fields(
    (
        Field("width", "embed_dim", 96),
        Field("depths", "depths", (2, 2, 6, 2)),
        Field("num_heads", "num_heads", (3, 6, 12, 24)),
        Field("window", "window_size", 7),
        Field("patch_size", "patch_size", 4),
        Field("mlp_ratio", "mlp_ratio", 4.0, {4.0: 4, 2.0: 2, 3.0: 3}),
        Field("stochastic_depth", "drop_path_rate", 0.1),
    ),
    {
        "hidden_act": "gelu",
        "qkv_bias": True,
        "num_channels": 3,
        "layer_norm_eps": 1e-5,
        "use_absolute_embeddings": False,
    },
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


def swin_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Our Swin with a norm on every level for transformers' `backbone_config`. Raises UserError for other levels."""
    fields = SWIN.ours(config)
    stages = len(fields["depths"]) if isinstance(fields["depths"], list | tuple) else 0
    if (there := config.get("out_indices")) != [*range(1, stages + 1)]:
        raise UserError(f"config.json takes the levels {str(there)[:40]} of its backbone: only all are known here")
    return {"name": "swin", "num_classes": 0, **fields, "norm_levels": True}


def swin_written(model: Swin) -> dict[str, Any]:
    """transformers' `backbone_config` of our Swin, of which all levels are taken."""
    numbers = [*range(1, len(model.depths) + 1)]
    levels = {"out_features": [f"stage{number}" for number in numbers], "out_indices": numbers}
    return {"model_type": "swin", **SWIN.theirs(vars(model)), **levels}
