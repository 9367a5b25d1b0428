"""A Vision Transformer with published weights, fine-tuned on a folder or zip of photographs.

    python -m experiments.train --config=docs/examples/fine_tuning.py:weights=vit.safetensors,folder=my_photos \
        --workdir=runs/tuned
"""

from ml_collections import ConfigDict

from research.config import argument
from research.models import vit

SMALLEST = {"patch_size": 8, "width": 32, "num_layers": 2, "num_heads": 4, "mlp_width": 128}


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: weights (a .safetensors file or a run), folder (of images), size (of the model), tiny."""
    options = argument(arg, weights="vit.safetensors", folder="my_photos", size="S/16", tiny=False)
    config = ConfigDict({"seed": 0})
    config.data = {"name": "image_folder", "path": options.folder}
    config.task = {"name": "classification", "label_smoothing": 0.1}
    config.task.photo = {"size": 224, "scale": (0.4, 1.0), "interpolation": "bicubic"}
    config.model = {"name": "vit", **vit.fields(options.size)}
    config.transfer = {"source": options.weights, "new": [r"^head/"]}
    config.optimizer = {"name": "adamw", "learning_rate": 5e-4, "weight_decay": 0.05, "layer_decay": 0.75}
    config.optimizer.multipliers = {r"^patch_embedding/": 0.0}
    config.schedule = {"name": "cosine", "warmup": {"epochs": 1}}
    config.training = {"batch_size": 64, "duration": {"epochs": 20}, "evaluate_every": {"epochs": 1}}
    config.checkpoint = {"every": {"epochs": 1}, "best": "validation/accuracy", "mode": "max"}
    if options.tiny:
        config.model = {"name": "vit", **SMALLEST}
        config.task.photo.size = 32
        config.training.batch_size = 8
        config.training.duration = {"steps": 4}
        config.training.evaluate_every = config.checkpoint.every = {"steps": 2}
        config.schedule.warmup = {"steps": 2}
    return config
