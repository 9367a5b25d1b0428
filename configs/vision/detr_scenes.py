"""A DETR that finds twenty emojis in generated scenes of 128 x 128 pixels, from scratch (no download).

    python -m experiments.train --config=configs/vision/detr_scenes.py --workdir=runs/boxes

Needs the extras `detection` and `scenes`; glyphs=shapes draws figures in six colours instead of emojis. Each training
scene is drawn anew by its number; validation and test have 200 others. Not a published result; the ledger's claim is
detr-scenes. Hardware: 2 CPU cores.
"""

from ml_collections import ConfigDict

from research.config import argument


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: glyphs (emoji, shapes), tiny."""
    options = argument(arg, glyphs=("emoji", "shapes"), tiny=False)
    config = ConfigDict({"seed": 0})
    config.data = {"name": "scenes", "glyphs": options.glyphs, "size": 128, "num_train": 100_000}
    config.task = {"name": "detection", "size": 128, "max_boxes": 8, "augmentation": {"flip": True}}
    backbone = {"name": "resnet", "num_classes": 0, "depths": (1, 1, 1), "bottleneck": False, "width": 32}
    config.model = {"name": "detr", "backbone": backbone, "num_queries": 16, "width": 128, "num_heads": 4}
    config.model.update(encoder_layers=2, decoder_layers=3, mlp_width=256, dropout=0.0)
    config.optimizer = {"name": "adamw", "learning_rate": 4e-4, "weight_decay": 1e-4, "clip_norm": 1.0}
    config.schedule = {"name": "cosine", "warmup": {"steps": 200}}
    config.training = {"batch_size": 16, "duration": {"examples": 100_000}, "log_every": 50}
    config.training.evaluate_every = {"steps": 1000}
    config.checkpoint = {"every": {"steps": 1000}, "best": "validation/ap50", "mode": "max"}
    if options.tiny:
        config.data.update(size=32, num_train=32, num_validation=4, num_test=4)
        config.task.size = 32
        config.model.backbone.update(depths=(1, 1), width=8)
        config.model.update(width=16, num_heads=2, encoder_layers=1, decoder_layers=2, mlp_width=32, num_queries=8)
        config.training.update(batch_size=4, log_every=2)
        config.training.duration = {"steps": 4}
        config.training.evaluate_every = config.checkpoint.every = {"steps": 2}
        config.schedule.warmup = {"steps": 1}
    return config
