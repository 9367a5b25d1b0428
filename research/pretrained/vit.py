"""timm's ViTs and DeiTs in our names."""

import numpy as np

from research.pretrained.convert import Renamed, attention_input, attention_output, leaf, split, substitute

_RULES = {
    r"patch_embed\.proj": "patch_embedding/projection",
    "norm": "encoder/norm",
    "head": "head",
    "head_dist": "head_distillation",
    r"blocks\.(\d+)\.norm1": r"encoder/layer_\1/self_attention_norm",
    r"blocks\.(\d+)\.norm2": r"encoder/layer_\1/feed_forward_norm",
    r"blocks\.(\d+)\.attn\.(qkv|proj)": r"encoder/layer_\1/self_attention",
    r"blocks\.(\d+)\.mlp\.fc1": r"encoder/layer_\1/feed_forward/up",
    r"blocks\.(\d+)\.mlp\.fc2": r"encoder/layer_\1/feed_forward/down",
}
_TOKENS = {"cls_token": "cls_token", "dist_token": "distillation_token", "pos_embed": "position_embedding"}


def rename(name: str, array: np.ndarray, *, num_heads: int) -> Renamed:
    """See `convert`."""
    if name in _TOKENS:
        yield _TOKENS[name], array[0] if name == "pos_embed" else array[0, 0]
        return
    path, kind = split(name)
    ours = substitute(path, _RULES)
    if path.endswith("qkv"):
        yield from attention_input(ours, kind, array, num_heads)
    elif path.endswith("attn.proj"):
        yield attention_output(ours, kind, array, num_heads)
    else:
        yield leaf(ours, kind, array)
