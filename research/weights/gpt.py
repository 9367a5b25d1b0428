"""transformers' GPT-2, whose projections are [in, out] as ours are."""

from research.weights.layouts import HEADS_OUT_AS_OURS, JOINT_AS_OURS, JOINT_BIAS, SAME
from research.weights.table import Drop, Line, Table, dense, line, norm

_LAYER, _OURS = "h.{}", "decoder/layer_{}"
_INPUTS = [f"{_OURS}/self_attention/{name}" for name in ("query", "key", "value")]

GPT2 = Table(
    (
        line("embedding/embedding", "wte.weight"),
        line("position_embedding/embedding", "wpe.weight"),
        *norm(f"{_OURS}/self_attention_norm", f"{_LAYER}.ln_1"),
        Line(tuple(f"{name}/kernel" for name in _INPUTS), (f"{_LAYER}.attn.c_attn.weight",), JOINT_AS_OURS),
        Line(tuple(f"{name}/bias" for name in _INPUTS), (f"{_LAYER}.attn.c_attn.bias",), JOINT_BIAS),
        *dense(f"{_OURS}/self_attention/out", f"{_LAYER}.attn.c_proj", HEADS_OUT_AS_OURS),
        *norm(f"{_OURS}/feed_forward_norm", f"{_LAYER}.ln_2"),
        *dense(f"{_OURS}/feed_forward/up", f"{_LAYER}.mlp.c_fc", SAME),
        *dense(f"{_OURS}/feed_forward/down", f"{_LAYER}.mlp.c_proj", SAME),
        *norm("decoder/norm", "ln_f"),
    ),
    drops=(
        Drop(r"h\.\d+\.attn\.(bias|masked_bias)", "masks, which follow from the length"),
        Drop(r"lm_head\.weight", "the table of tokens once more", "wte.weight"),
    ),
    prefix="transformer.",
    heads=("lm_head.",),
)
