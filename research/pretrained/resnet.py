"""timm's ResNets in our names."""

import numpy as np

from research.pretrained.convert import Renamed, leaf, split, substitute

_BLOCK = r"layer(\d)\.(\d+)\."
BASIC = {"1": "spatial", "2": "last"}
BOTTLENECK = {"1": "reduce", "2": "spatial", "3": "last"}


def rename(name: str, array: np.ndarray, *, bottleneck: bool) -> Renamed:
    """See `convert`."""
    path, kind = split(name)
    rules = {"conv1": "stem/conv", "bn1": "stem/norm", "fc": "head"}
    for number, ours in (BOTTLENECK if bottleneck else BASIC).items():
        rules[rf"{_BLOCK}conv{number}"] = rf"stage_\1_block_\2/{ours}/conv"
        rules[rf"{_BLOCK}bn{number}"] = rf"stage_\1_block_\2/{ours}/norm"
    rules[rf"{_BLOCK}downsample\.0"] = r"stage_\1_block_\2/shortcut/conv"
    rules[rf"{_BLOCK}downsample\.1"] = r"stage_\1_block_\2/shortcut/norm"
    yield leaf(_from_one_to_zero(substitute(path, rules)), kind, array)


def _from_one_to_zero(path: str) -> str:
    stage, separator, rest = path.partition("_block_")
    return f"stage_{int(stage.removeprefix('stage_')) - 1}{separator}{rest}" if separator else path
