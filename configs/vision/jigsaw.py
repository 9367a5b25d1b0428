"""Pre-training without labels by recognising how the tiles of an image were shuffled (Noroozi & Favaro 2016).

    python -m experiments.train --config=configs/vision/jigsaw.py --workdir=runs/jigsaw
    python -m experiments.probe --workdir=runs/jigsaw
    python -m experiments.probe --workdir=runs/jigsaw --random

The model is the small ViT of configs/vision/digits.py; 2 x 2 tiles in all 24 orders.

Hardware and time: 2 CPU cores, about 2 minutes.
"""

from pathlib import Path

from ml_collections import ConfigDict

from research.config import argument, load

BASE = Path(__file__).with_name("digits.py")


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: tiny."""
    options = argument(arg, tiny=False)
    config = load(f"{BASE}:tiny" if options.tiny else str(BASE))
    augmentation = {"rotate": 10.0, "shift": 0.1, "zoom": 0.15, "shear": 10.0}
    config.task = {"name": "pretext", "change": "jigsaw", "augmentation": augmentation}
    if not options.tiny:
        config.training.duration = {"epochs": 200}
        config.training.evaluate_every = config.checkpoint.every = {"epochs": 40}
        del config.expect
    return config
