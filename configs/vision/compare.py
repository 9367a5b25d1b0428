"""The models that "EfficientFormer: Vision Transformers at MobileNet Speed" (Li et al. 2022) is compared with.

    python -m experiments.benchmark --config=configs/vision/compare.py --workdir=runs/compare

Its claims: ViTs are several times slower than light CNNs, and EfficientFormer closes the gap (L1 as fast as
MobileNetV2x1.4, here MobileNetV2-140, on a telephone). Measured with random weights: latency does not depend on them.

`accuracy` is published, top-1 on ImageNet in per cent, not measured here: of EfficientFormer and MobileNetV2x1.4 in the
paper's abstract and repository, of DeiT-S and Swin-T in their papers, of the others that of the weights which the
documentation of torchvision calls IMAGENET1K_V1.

Hardware: any; 2 CPU cores take about 4 minutes.
"""

from ml_collections import ConfigDict

from research.config import argument
from research.models import efficientformer, resnet, swin, vit


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: tiny (two very small models on small images)."""
    options = argument(arg, tiny=False)
    config = ConfigDict({"size": 224, "num_classes": 1000, "batch_sizes": [1, 8], "rounds": 20})
    config.reference = "MobileNetV2-140"
    config.sides = [16, 24, 32, 48, 64]  # of square grids of tokens
    config.models = {
        "MobileNetV2": {"name": "mobilenet", "accuracy": 71.9},
        "MobileNetV2-140": {"name": "mobilenet", "multiplier": 1.4, "head_width": 1792, "accuracy": 74.7},
        "MobileNetV3-Large": {"name": "mobilenet", "version": "v3", "accuracy": 74.0},
        "ResNet-50": {"name": "resnet", **resnet.fields("50"), "accuracy": 76.1},
        "EfficientFormer-L1": {"name": "efficientformer", **efficientformer.fields("L1"), "accuracy": 79.2},
        "EfficientFormer-L3": {"name": "efficientformer", **efficientformer.fields("L3"), "accuracy": 82.4},
        "DeiT-S": {"name": "vit", **vit.fields("S/16"), "accuracy": 79.8},
        "ViT-B/16": {"name": "vit", **vit.fields("B/16"), "accuracy": 81.1},
        "Swin-T": {"name": "swin", **swin.fields("T"), "accuracy": 81.3},
    }
    if options.tiny:
        config.models = {
            "ViT": {"name": "vit", "patch_size": 8, "width": 16, "num_layers": 1, "num_heads": 2, "mlp_width": 32},
            "ResNet": {"name": "resnet", "depths": (1, 1), "bottleneck": False, "width": 8},
        }
        config.update(size=32, rounds=2, sides=[8, 16], reference="ResNet")
    return config
