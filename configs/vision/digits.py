"""A small Vision Transformer on scikit-learn's 1,797 scans of handwritten digits, 8x8 pixels (no download).

    python -m experiments.train --config=configs/vision/digits.py --workdir=runs/digits --config.seed=0

Not a published result: the last 360 images are the test set, the 180 before them the validation set.
Hardware: 2 CPU cores, about 2 minutes a seed. Expected: test/accuracy 0.975 or more (mean of 3 seeds).
"""

from ml_collections import ConfigDict

from research.config import argument
from research.search_space import Space, choice, log_uniform, uniform


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: tiny."""
    options = argument(arg, tiny=False)
    config = ConfigDict({"seed": 0})
    config.data = {"name": "digits"}
    config.task = {
        "name": "classification",
        "label_smoothing": 0.1,
        "mixup": 0.3,
        "augmentation": {"rotate": 15.0, "shift": 0.1, "zoom": 0.15, "shear": 10.0},
    }
    config.model = {
        "name": "vit",
        "patch_size": 2,
        "width": 64,
        "num_layers": 4,
        "num_heads": 4,
        "mlp_width": 128,
        "pool": "mean",
    }
    config.optimizer = {"name": "adamw", "learning_rate": 2e-3, "weight_decay": 0.05, "clip_norm": 1.0}
    config.schedule = {"name": "cosine", "warmup": {"epochs": 5}}
    config.training = {
        "batch_size": 128,
        "duration": {"epochs": 400},
        "evaluate_every": {"epochs": 40},
        "log_every": 20,
        "ema": 0.995,
    }
    config.checkpoint = {"every": {"epochs": 40}}
    config.expect = {"metric": "test/accuracy", "value": 0.985, "tolerance": 0.01}
    if options.tiny:
        config.model.update(num_layers=1, width=16, num_heads=2, mlp_width=32)
        config.training.update(batch_size=8, log_every=2)
        config.training.duration = {"steps": 6}
        config.training.evaluate_every = config.checkpoint.every = {"steps": 3}
        config.schedule.warmup = {"steps": 2}
        del config.expect
    return config


def sweep() -> Space:
    """Learning rate and regularisation."""
    return {
        "optimizer.learning_rate": log_uniform(3e-4, 1e-2),
        "optimizer.weight_decay": log_uniform(1e-3, 0.3),
        "task.mixup": choice([0.0, 0.3]),
        "task.label_smoothing": uniform(0.0, 0.2),
    }
