"""timm's EfficientFormers in our names."""

import re

import numpy as np

from research.models.efficientformer import KEY_SIZE, NUM_HEADS
from research.pretrained.convert import Renamed, attention_output, leaf, split, substitute

_BLOCK = r"stages\.(\d)\.blocks\.(\d+)\."
_OURS = r"stage_\1_block_\2"
_POOLING = {
    rf"{_BLOCK}ls1": rf"{_OURS}/pooling_scale",
    rf"{_BLOCK}mlp\.fc1": rf"{_OURS}/up/conv",
    rf"{_BLOCK}mlp\.norm1": rf"{_OURS}/up/norm",
    rf"{_BLOCK}mlp\.fc2": rf"{_OURS}/down/conv",
    rf"{_BLOCK}mlp\.norm2": rf"{_OURS}/down/norm",
}
_ATTENTION = {
    rf"{_BLOCK}norm1": rf"{_OURS}/self_attention_norm",
    rf"{_BLOCK}token_mixer": rf"{_OURS}/relative_bias",
    rf"{_BLOCK}token_mixer\.(qkv|proj)": rf"{_OURS}/self_attention",
    rf"{_BLOCK}ls1": rf"{_OURS}/self_attention_scale",
    rf"{_BLOCK}norm2": rf"{_OURS}/feed_forward_norm",
    rf"{_BLOCK}mlp\.fc1": rf"{_OURS}/feed_forward/up",
    rf"{_BLOCK}mlp\.fc2": rf"{_OURS}/feed_forward/down",
}
_OTHERS = {
    r"stem\.conv1": "stem_0/conv",
    r"stem\.norm1": "stem_0/norm",
    r"stem\.conv2": "stem_1/conv",
    r"stem\.norm2": "stem_1/norm",
    r"stages\.(\d)\.downsample\.(conv|norm)": r"stage_\1_embedding/\2",
    rf"{_BLOCK}ls2": rf"{_OURS}/feed_forward_scale",
    "norm": "norm",
    "head": "head",
    "head_dist": "head_distillation",
}


def rename(name: str, array: np.ndarray, *, depths: tuple[int, ...], num_attention: int) -> Renamed:
    """See `convert`. The indices of the biases, which follow from the grid, are left out."""
    path, kind = split(name)
    if kind == "attention_bias_idxs":
        return
    path, attention = _block(path, depths, num_attention)
    ours = substitute(path, _OTHERS | (_ATTENTION if attention else _POOLING))
    if kind == "gamma":
        yield ours, array
    elif kind == "attention_biases":
        side = round(array.shape[1] ** 0.5)
        yield ours, array.T.reshape(side, side, -1)
    elif path.endswith(".qkv"):
        yield from _attention_input(ours, kind, array)
    elif path.endswith(".proj"):
        yield attention_output(ours, kind, array, NUM_HEADS)
    else:
        yield leaf(ours, kind, array)


def _block(path: str, depths: tuple[int, ...], num_attention: int) -> tuple[str, bool]:
    """The path with our number of the block, and whether it is attention.

    timm counts the flattening between pooling and attention as a block.
    """
    found = re.match(_BLOCK, path)
    if not found:
        return path, False
    stage, index = int(found[1]), int(found[2])
    if not num_attention or stage < len(depths) - 1 or index < depths[-1] - num_attention:
        return path, False
    return f"stages.{stage}.blocks.{index - 1}.{path[found.end() :]}", True


def _attention_input(path: str, kind: str, array: np.ndarray) -> Renamed:
    """The joint projection, which has query, key and value of one head after those of another."""
    heads = array.reshape(NUM_HEADS, -1, *array.shape[1:])
    parts = np.split(heads, (KEY_SIZE, 2 * KEY_SIZE), axis=1)
    for name, part in zip(("query", "key", "value"), parts, strict=True):
        if kind == "weight":
            yield f"{path}/{name}/kernel", part.transpose(2, 0, 1)
        else:
            yield f"{path}/{name}/bias", part
