"""timm's Swin Transformers in our names."""

import math

import numpy as np

from research.pretrained.convert import Renamed, attention_input, attention_output, leaf, split, substitute

_BLOCK = r"layers\.(\d)\.blocks\.(\d+)\."
_RULES = {
    r"patch_embed\.proj": "patch_embedding/projection",
    r"patch_embed\.norm": "patch_embedding/norm",
    r"layers\.(\d)\.downsample\.norm": r"stage_\1_merge/norm",
    r"layers\.(\d)\.downsample\.reduction": r"stage_\1_merge/reduce",
    rf"{_BLOCK}norm1": r"stage_\1_block_\2/attention_norm",
    rf"{_BLOCK}attn": r"stage_\1_block_\2",
    rf"{_BLOCK}attn\.(qkv|proj)": r"stage_\1_block_\2/attention",
    rf"{_BLOCK}norm2": r"stage_\1_block_\2/feed_forward_norm",
    rf"{_BLOCK}mlp\.fc1": r"stage_\1_block_\2/feed_forward/up",
    rf"{_BLOCK}mlp\.fc2": r"stage_\1_block_\2/feed_forward/down",
    "norm": "norm",
    r"head\.fc": "head",
}


def rename(name: str, array: np.ndarray, *, num_heads: tuple[int, ...]) -> Renamed:
    """See `convert`. num_heads: of each stage. Masks and indices, which follow from the sizes, are left out."""
    path, kind = split(name)
    if kind in ("attn_mask", "relative_position_index"):
        return
    ours = substitute(path, _RULES)
    if kind == "relative_position_bias_table":
        side = math.isqrt(len(array))
        yield f"{ours}/relative_bias", array.reshape(side, side, -1)
    elif path.endswith(".qkv"):
        yield from attention_input(ours, kind, array, _heads(path, num_heads))
    elif path.endswith("attn.proj"):
        yield attention_output(ours, kind, array, _heads(path, num_heads))
    else:
        yield leaf(ours, kind, array)


def _heads(path: str, num_heads: tuple[int, ...]) -> int:
    return num_heads[int(path.split(".")[1])]
