"""Swin Transformers: timm's and transformers'."""

from research.weights.layouts import CONVOLUTION, GRID, HEADS_OUT, JOINT, JOINT_BIAS, TRANSPOSE
from research.weights.table import Drop, Line, Numbers, Table, attention, dense, line, norm, numbered

_OURS = "stage_{}_block_{}"
_INPUTS = [f"{_OURS}/attention/{name}" for name in ("query", "key", "value")]


def _blocks(theirs: str, up: str, down: str, names: tuple[str, str]) -> list[Line]:
    return [
        *norm(f"{_OURS}/attention_norm", f"{theirs}.{names[0]}"),
        *norm(f"{_OURS}/feed_forward_norm", f"{theirs}.{names[1]}"),
        *dense(f"{_OURS}/feed_forward/up", f"{theirs}.{up}"),
        *dense(f"{_OURS}/feed_forward/down", f"{theirs}.{down}"),
    ]


def _before(numbers: Numbers) -> Numbers:
    """transformers merges behind a stage, timm and we before the next one."""
    return (numbers[0] - 1,)


TIMM = Table(
    (
        *dense("patch_embedding/projection", "patch_embed.proj", CONVOLUTION),
        *norm("patch_embedding/norm", "patch_embed.norm"),
        *norm("stage_{}_merge/norm", "layers.{}.downsample.norm"),
        *dense("stage_{}_merge/reduce", "layers.{}.downsample.reduction", TRANSPOSE),
        line(f"{_OURS}/relative_bias", "layers.{}.blocks.{}.attn.relative_position_bias_table", GRID),
        Line(tuple(f"{name}/kernel" for name in _INPUTS), ("layers.{}.blocks.{}.attn.qkv.weight",), JOINT),
        Line(tuple(f"{name}/bias" for name in _INPUTS), ("layers.{}.blocks.{}.attn.qkv.bias",), JOINT_BIAS),
        *dense(f"{_OURS}/attention/out", "layers.{}.blocks.{}.attn.proj", HEADS_OUT),
        *_blocks("layers.{}.blocks.{}", "mlp.fc1", "mlp.fc2", ("norm1", "norm2")),
        *norm("norm", "norm"),
        *dense("head", "head.fc"),
    ),
    drops=(Drop(r"layers\..*\.(attn_mask|relative_position_index)", "masks and indices, which follow from the sizes"),),
)

_BLOCK = "encoder.layers.{}.blocks.{}"
BODY = (
    *dense("patch_embedding/projection", "embeddings.patch_embeddings.projection", CONVOLUTION),
    *norm("patch_embedding/norm", "embeddings.norm"),
    *numbered(_before, norm("stage_{}_merge/norm", "encoder.layers.{}.downsample.norm")),
    *numbered(_before, dense("stage_{}_merge/reduce", "encoder.layers.{}.downsample.reduction")),
    line(f"{_OURS}/relative_bias", f"{_BLOCK}.attention.self.relative_position_bias_table", GRID),
    *attention(
        f"{_OURS}/attention",
        f"{_BLOCK}.attention.self.query",
        f"{_BLOCK}.attention.self.key",
        f"{_BLOCK}.attention.self.value",
        f"{_BLOCK}.attention.output.dense",
    ),
    *_blocks(_BLOCK, "intermediate.dense", "output.dense", ("layernorm_before", "layernorm_after")),
)
"""Of transformers', all but the last norm and the head."""
HUGGING_FACE = Table(
    (*BODY, *norm("norm", "layernorm"), *dense("head", "classifier")),
    drops=(
        Drop(r"encoder\..*\.relative_position_index", "indices, which follow from the size of a window"),
        Drop(r"embeddings\.mask_token", "stands for hidden patches in pre-training alone"),
    ),
    spellings=(
        (r"\.attention\.([qkv])_proj\.", r".attention.self.\1."),
        (r"\.attention\.self\.q\.", ".attention.self.query."),
        (r"\.attention\.self\.k\.", ".attention.self.key."),
        (r"\.attention\.self\.v\.", ".attention.self.value."),
        (r"\.attention\.o_proj\.", ".attention.output.dense."),
        (r"\.attention\.relative_position_bias\.", ".attention.self."),
        (r"(blocks\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
        (r"(blocks\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
    ),
    prefix="swin.",
    heads=("classifier.",),
)
