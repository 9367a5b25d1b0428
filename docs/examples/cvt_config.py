"""The Compact Vision Transformer on the digits of configs/vision/digits.py."""

from ml_collections import ConfigDict

from research.config import argument, load


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: tiny."""
    options = argument(arg, tiny=False)
    config = load("configs/vision/digits.py:tiny" if options.tiny else "configs/vision/digits.py")
    size = {"width": 16, "num_layers": 1} if options.tiny else {"width": 64, "num_layers": 4}
    config.model = {"name": "cvt", "patch_size": 2, "num_heads": 2, "mlp_width": 128, **size}
    config.mesh = {"rules": {"^pool/": []}}
    return config
