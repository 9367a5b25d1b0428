"""transformers' SegFormer for semantic segmentation."""

from research.weights.layouts import CONVOLUTION, CONVOLUTION_OF_LEVELS, POINTWISE, SQUARES
from research.weights.resnet import COUNTS
from research.weights.table import Table, attention, batch_norm, dense, line, norm

_OURS, _BLOCK, _STAGE = "stage_{}_block_{}", "encoder.block.{}.{}", "encoder.patch_embeddings.{}"
_ATTENTION = f"{_BLOCK}.attention"

SEGFORMER = Table(
    (
        *dense("stage_{}_patches/conv", f"{_STAGE}.proj", CONVOLUTION),
        *norm("stage_{}_patches/norm", f"{_STAGE}.layer_norm"),
        *norm(f"{_OURS}/attention_norm", f"{_BLOCK}.layer_norm_1"),
        *attention(
            f"{_OURS}/attention",
            f"{_ATTENTION}.self.query",
            f"{_ATTENTION}.self.key",
            f"{_ATTENTION}.self.value",
            f"{_ATTENTION}.output.dense",
        ),
        *dense(f"{_OURS}/reduce", f"{_ATTENTION}.self.sr", SQUARES),
        *norm(f"{_OURS}/reduce_norm", f"{_ATTENTION}.self.layer_norm"),
        *norm(f"{_OURS}/feed_forward_norm", f"{_BLOCK}.layer_norm_2"),
        *dense(f"{_OURS}/up", f"{_BLOCK}.mlp.dense1"),
        *dense(f"{_OURS}/conv", f"{_BLOCK}.mlp.dwconv.dwconv", CONVOLUTION),
        *dense(f"{_OURS}/down", f"{_BLOCK}.mlp.dense2"),
        *norm("stage_{}_norm", "encoder.layer_norm.{}"),
        *dense("project_{}", "decode_head.linear_c.{}.proj"),
        line("fuse/conv/kernel", "decode_head.linear_fuse.weight", CONVOLUTION_OF_LEVELS),
        *batch_norm("fuse/norm", "decode_head.batch_norm"),
        *dense("head", "decode_head.classifier", POINTWISE),
    ),
    drops=(COUNTS,),
    spellings=(
        (r"^stages\.(\d+)\.patch_embeddings\.", r"encoder.patch_embeddings.\1."),
        (r"^stages\.(\d+)\.blocks\.", r"encoder.block.\1."),
        (r"^stages\.(\d+)\.layer_norm\.", r"encoder.layer_norm.\1."),
        (r"\.attention\.q_proj\.", ".attention.self.query."),
        (r"\.attention\.k_proj\.", ".attention.self.key."),
        (r"\.attention\.v_proj\.", ".attention.self.value."),
        (r"\.attention\.o_proj\.", ".attention.output.dense."),
        (r"\.attention\.sequence_reduction\.sequence_reduction\.", ".attention.self.sr."),
        (r"\.attention\.sequence_reduction\.layer_norm\.", ".attention.self.layer_norm."),
        (r"\.mlp\.fc([12])\.", r".mlp.dense\1."),
        (r"\.layernorm_before\.", ".layer_norm_1."),
        (r"\.layernorm_after\.", ".layer_norm_2."),
        (r"^decode_head\.linear_projections\.", "decode_head.linear_c."),
    ),
    prefix="segformer.",
    heads=("decode_head.",),
)
