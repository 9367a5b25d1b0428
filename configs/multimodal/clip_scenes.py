"""A small CLIP on generated scenes of one or two figures and their captions, from scratch (no download).

    python -m experiments.train --config=configs/multimodal/clip_scenes.py --workdir=runs/clip_scenes

Captions such as "a red star to the left of a blue bar"; the scores tell nouns from relations: a twin is the caption
with its relation swapped. The loss of Radford et al. 2021, on 128 pairs at a time. Not a published result. Hardware: 2
CPU cores; not run in full yet. 600 steps of 64 pairs took six minutes: test/image_to_text_recall_5 0.98, nouns 0.46,
relation 0.53, no better than chance (docs/image_text.md).
"""

from ml_collections import ConfigDict

from research.config import argument


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: glyphs (shapes, emoji), tiny."""
    options = argument(arg, glyphs=("shapes", "emoji"), tiny=False)
    config = ConfigDict({"seed": 0})
    config.data = {"name": "scenes", "glyphs": options.glyphs, "size": 64, "most": 2, "scale": (0.25, 0.45)}
    config.data.update(num_train=200_000, num_validation=200, num_test=100)
    config.task = {"name": "image_text", "tokenizer": {"kind": "word"}, "length": 16}
    image = {"name": "vit", "num_classes": 0, "patch_size": 8, "width": 128, "num_layers": 4, "num_heads": 4}
    image |= {"mlp_width": 512, "pool": "mean", "positions": "learned"}
    text = {"name": "gpt", "width": 128, "num_layers": 2, "num_heads": 4, "max_length": 16}
    config.model = {"name": "two_towers", "image": image, "text": text, "width": 128}
    config.optimizer = {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05, "clip_norm": 1.0}
    config.schedule = {"name": "cosine", "warmup": {"steps": 100}}
    config.training = {"batch_size": 128, "duration": {"steps": 1500}, "log_every": 50}
    config.training.evaluate_every = {"steps": 500}
    config.checkpoint = {"every": {"steps": 500}}
    if options.tiny:
        config.data.update(size=16, num_train=32, num_validation=8, num_test=8)
        config.model.image.update(patch_size=4, width=16, num_layers=1, num_heads=2, mlp_width=32)
        config.model.text.update(width=16, num_layers=1, num_heads=2)
        config.model.width = 8
        config.training.update(batch_size=8, log_every=2)
        config.training.duration = {"steps": 4}
        config.training.evaluate_every = config.checkpoint.every = {"steps": 2}
        config.schedule.warmup = {"steps": 1}
    return config
