"""transformers' T5 and T5 v1.1."""

from research.weights.table import Drop, Line, Table, attention, dense, line


def _scale(ours: str, theirs: str) -> Line:
    return line(f"{ours}/scale", f"{theirs}.weight")


def _stack(ours: str) -> list[Line]:
    layer, theirs = f"{ours}/layer_{{}}", f"{ours}.block.{{}}.layer"
    last = 1 if ours == "encoder" else 2

    def attend(name: str, number: int, kind: str) -> list[Line]:
        names = (f"{theirs}.{number}.{kind}.{part}" for part in ("q", "k", "v", "o"))
        lines = [*attention(f"{layer}/{name}", *names)]
        return [*lines, _scale(f"{layer}/{name}_norm", f"{theirs}.{number}.layer_norm")]

    network = f"{theirs}.{last}.DenseReluDense"
    table = f"{ours}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    return [
        *attend("self_attention", 0, "SelfAttention"),
        *attend("cross_attention", 1, "EncDecAttention"),
        *dense(f"{layer}/feed_forward/up", f"{network}.wi_1"),
        *dense(f"{layer}/feed_forward/gate", f"{network}.wi_0"),
        *dense(f"{layer}/feed_forward/down", f"{network}.wo"),
        _scale(f"{layer}/feed_forward_norm", f"{theirs}.{last}.layer_norm"),
        _scale(f"{ours}/norm", f"{ours}.final_layer_norm"),
        line(f"{ours}/relative_bias/embedding", table),
    ]


GATED = Table(
    (
        line("embedding/embedding", "shared.weight"),
        line("output_embedding/embedding", "lm_head.weight"),
        *_stack("encoder"),
        *_stack("decoder"),
    ),
    drops=(
        Drop(r"(encoder|decoder)\.embed_tokens\.weight|lm_head\.weight", "the shared table once more", "shared.weight"),
        Drop(
            r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
            "of the first models; never read",
        ),
    ),
)
"""v1.1, whose feed-forward networks are gated."""
PLAIN = Table(
    tuple(
        one._replace(theirs=tuple(name.replace(".wi_1.", ".wi.") for name in one.theirs))
        for one in GATED.lines
        if "/gate/" not in one.ours[0]
    ),
    GATED.drops,
)
