"""`clip_scenes` with SigLIP's loss (Zhai et al. 2023): each pair is right or wrong by itself.

    python -m experiments.train --config=configs/multimodal/siglip_scenes.py --workdir=runs/siglip_scenes

Temperature and bias start as in the paper's algorithm 1. Not a published result. Hardware: 2 CPU cores;
not run in full yet.
"""

from ml_collections import ConfigDict

from configs.multimodal import clip_scenes


def get_config(arg: str = "") -> ConfigDict:
    """Arguments: glyphs (shapes, emoji), tiny."""
    config = clip_scenes.get_config(arg)
    config.task.objective = "siglip"
    config.model.update(scale=10.0, bias=-10.0)
    return config
