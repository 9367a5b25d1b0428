"""The models that "EfficientFormer: Vision Transformers at MobileNet Speed" (Li et al. 2022) is compared with.

    python -m experiments.benchmark --config=configs/vision/compare.py

Its claims: ViTs are several times slower than light CNNs, and EfficientFormer closes the gap (L1 as fast as
MobileNetV2x1.4 on a telephone). Measured with random weights: latency does not depend on them.

Hardware: any; 2 CPU cores take some minutes.
"""

from ml_collections import ConfigDict

from research.config import argument
from research.models import efficientformer, resnet, swin, vit


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: tiny (two small models on small images)."""
    arg = argument(arg, tiny=False)
    config = ConfigDict({"size": 224, "num_classes": 1000, "batch_sizes": [1, 8], "rounds": 20})
    config.models = {
        "MobileNetV2": {"name": "mobilenet"},
        "MobileNetV3-Large": {"name": "mobilenet", "version": "v3"},
        "ResNet-50": {"name": "resnet", **resnet.fields("50")},
        "EfficientFormer-L1": {"name": "efficientformer", **efficientformer.fields("L1")},
        "EfficientFormer-L3": {"name": "efficientformer", **efficientformer.fields("L3")},
        "DeiT-S": {"name": "vit", **vit.fields("S/16")},
        "ViT-B/16": {"name": "vit", **vit.fields("B/16")},
        "Swin-T": {"name": "swin", **swin.fields("T")},
    }
    if arg.tiny:
        config.models = {"MobileNetV2": {"name": "mobilenet", "multiplier": 0.1}, "ViT-Ti/16": config.models["DeiT-S"]}
        config.models["ViT-Ti/16"].update(vit.fields("Ti/16"))
        config.update(size=32, rounds=2)
    return config
