"""Captions of generated scenes of one or two figures, by a small Transformer from scratch (no download).

    python -m experiments.train --config=configs/multimodal/caption_scenes.py --workdir=runs/caption_scenes

The image tower of `clip_scenes` and a decoder over its patches. Not a published result. Hardware: 2 CPU cores;
not run in full yet.
"""

from ml_collections import ConfigDict

from configs.multimodal import clip_scenes
from research.config import argument

UNSEEN = ("red circle", "green square", "blue triangle", "yellow star", "purple cross", "black bar")
"""Every figure and every colour once; training shows each of them with the five others."""


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: glyphs (shapes, emoji), tiny."""
    options = argument(arg, glyphs=("shapes", "emoji"), tiny=False)
    config = clip_scenes.get_config(arg)
    if options.glyphs == "shapes":
        config.data.unseen = UNSEEN
    config.task.name = "captioning"
    model = {"name": "captioner", "image": config.model.image.to_dict(), "width": 128, "num_layers": 2, "num_heads": 4}
    config.model = {**model, "mlp_width": 512, "norm": "pre"}
    if options.tiny:
        config.model.update(width=16, num_layers=1, num_heads=2, mlp_width=32)
    return config
