"""Transformers that find figures in generated scenes of 128 x 128 pixels, from scratch (no download).

    python -m experiments.train --config=configs/vision/segmenter_scenes.py --workdir=runs/scenes
    python -m experiments.train --config=configs/vision/segmenter_scenes.py:model=unet --workdir=runs/scenes_unet

Each training scene is drawn anew by its number; validation and test have 200 others. Classes are the ground and six
figures in six colours; glyphs=emoji draws twenty emojis instead, by the font of the extra `scenes`. A
Segmenter (model=segmenter) takes longer: after 450 steps it still called everything ground. Not a published result.
Hardware: 2 CPU cores.
"""

from ml_collections import ConfigDict

from configs.vision import membrane
from research.config import argument

MODELS = {
    "transunet": membrane.MODELS["transunet"],
    "unet": membrane.MODELS["unet"],
    "segmenter": {
        "name": "segmenter",
        "encoder": {
            "name": "vit",
            "num_classes": 0,
            "patch_size": 8,
            "width": 128,
            "num_layers": 6,
            "num_heads": 4,
            "mlp_width": 512,
            "pool": "mean",
            "positions": "sincos2d",
        },
        "decoder": "mask",
        "num_heads": 4,
    },
}


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: glyphs (shapes, emoji), model (transunet, unet, segmenter), tiny."""
    options = argument(arg, glyphs=("shapes", "emoji"), model=tuple(MODELS), tiny=False)
    config = ConfigDict({"seed": 0})
    config.data = {"name": "scenes", "glyphs": options.glyphs, "size": 128, "num_train": 20_000}
    config.task = {"name": "segmentation", "size": 128, "augmentation": {"flip": True}}
    config.model = dict(MODELS[options.model])
    config.optimizer = {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05, "clip_norm": 1.0}
    config.schedule = {"name": "cosine", "warmup": {"steps": 100}}
    config.training = {"batch_size": 16, "duration": {"steps": 1500}, "log_every": 50}
    config.training.evaluate_every = {"steps": 500}
    config.checkpoint = {"every": {"steps": 500}}
    if options.tiny:
        config.data.update(size=16, num_train=32, num_validation=4, num_test=4)
        config.task.size = 16
        membrane.shrink(config.model)
        config.training.update(batch_size=4, log_every=2)
        config.training.duration = {"steps": 4}
        config.training.evaluate_every = config.checkpoint.every = {"steps": 2}
        config.schedule.warmup = {"steps": 1}
    return config
