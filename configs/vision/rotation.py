"""Pre-training without labels by recognising rotations (Gidaris et al. 2018), then a probe on the frozen features.

    python -m experiments.train --config=configs/vision/rotation.py --workdir=runs/rotation
    python -m experiments.probe --workdir=runs/rotation
    python -m experiments.probe --workdir=runs/rotation --random

The model is the small ViT of configs/vision/digits.py. The paper's figures are for a convolutional network on CIFAR-10:
89.06 % with a non-linear probe on its features, 92.80 % supervised.

Hardware and time: 2 CPU cores, about 3 minutes.
"""

from pathlib import Path

from ml_collections import ConfigDict

from research.config import argument, load

BASE = Path(__file__).with_name("digits.py")


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: tiny."""
    options = argument(arg, tiny=False)
    config = load(f"{BASE}:tiny" if options.tiny else str(BASE))
    # Turning would blur what is to be recognised; shifts and zoom stay.
    config.task = {"name": "pretext", "change": "rotation", "augmentation": {"shift": 0.1, "zoom": 0.15, "shear": 10.0}}
    if not options.tiny:
        config.training.batch_size = 64  # images: each is shown in four positions
        config.training.duration = {"epochs": 100}
        config.training.evaluate_every = config.checkpoint.every = {"epochs": 20}
        del config.expect
    return config
