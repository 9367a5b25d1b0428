"""transformers' Marian translation models (opus-mt)."""

from research.weights.layouts import SQUEEZE
from research.weights.table import Drop, Line, Table, attention, dense, line, norm


def _stack(ours: str, theirs: str) -> list[Line]:
    def attend(ours: str, theirs: str) -> list[Line]:
        names = (f"{theirs}.{part}_proj" for part in ("q", "k", "v", "out"))
        return [*attention(ours, *names), *norm(f"{ours}_norm", f"{theirs}_layer_norm")]

    layer, other = f"{ours}/layer_{{}}", f"{theirs}.layers.{{}}"
    return [
        *attend(f"{layer}/self_attention", f"{other}.self_attn"),
        *attend(f"{layer}/cross_attention", f"{other}.encoder_attn"),
        *dense(f"{layer}/feed_forward/up", f"{other}.fc1"),
        *dense(f"{layer}/feed_forward/down", f"{other}.fc2"),
        *norm(f"{layer}/feed_forward_norm", f"{other}.final_layer_norm"),
    ]


MARIAN = Table(
    (
        line("embedding/embedding", "shared.weight"),
        line("logits_bias", "final_logits_bias", SQUEEZE),
        *_stack("encoder", "encoder"),
        *_stack("decoder", "decoder"),
    ),
    drops=(
        Drop(r"(encoder|decoder)\.embed_tokens\.weight|lm_head\.weight", "the shared table once more", "shared.weight"),
        Drop(r"(encoder|decoder)\.embed_positions\.weight", "sines and cosines, which follow from the positions"),
    ),
    prefix="model.",
    heads=("final_logits_bias", "lm_head."),
)
