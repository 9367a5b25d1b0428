"""Vision Transformers: timm's, transformers' (ViT, DeiT, DINOv2) and the original's."""

import dataclasses
from typing import Any

import numpy as np

from research.layers.positions import sincos_2d
from research.weights.layouts import (
    CONVOLUTION,
    HEADS_OUT,
    JOINT,
    JOINT_BIAS,
    JOINT_DENSE,
    SQUEEZE,
    SQUEEZE_TWICE,
)
from research.weights.table import Drop, Line, Table, attention, dense, line, norm

_OURS = "encoder/layer_{}"
_ATTENTION = f"{_OURS}/self_attention"
_INPUTS = [f"{_ATTENTION}/{name}" for name in ("query", "key", "value")]

TIMM = Table(
    (
        line("cls_token", "cls_token", SQUEEZE_TWICE),
        line("distillation_token", "dist_token", SQUEEZE_TWICE),
        line("position_embedding", "pos_embed", SQUEEZE),
        *dense("patch_embedding/projection", "patch_embed.proj", CONVOLUTION),
        *norm(f"{_OURS}/self_attention_norm", "blocks.{}.norm1"),
        Line(tuple(f"{name}/kernel" for name in _INPUTS), ("blocks.{}.attn.qkv.weight",), JOINT),
        Line(tuple(f"{name}/bias" for name in _INPUTS), ("blocks.{}.attn.qkv.bias",), JOINT_BIAS),
        *dense(f"{_ATTENTION}/out", "blocks.{}.attn.proj", HEADS_OUT),
        line(f"{_OURS}/self_attention_scale", "blocks.{}.ls1.gamma"),
        *norm(f"{_OURS}/feed_forward_norm", "blocks.{}.norm2"),
        *dense(f"{_OURS}/feed_forward/up", "blocks.{}.mlp.fc1"),
        *dense(f"{_OURS}/feed_forward/down", "blocks.{}.mlp.fc2"),
        line(f"{_OURS}/feed_forward_scale", "blocks.{}.ls2.gamma"),
        *norm("encoder/norm", "norm"),
        *dense("head", "head"),
        *dense("head_distillation", "head_dist"),
    ),
)

_LAYER = "encoder.layer.{}"
_EMBEDDINGS = (
    line("cls_token", "embeddings.cls_token", SQUEEZE_TWICE),
    line("distillation_token", "embeddings.distillation_token", SQUEEZE_TWICE),
    line("position_embedding", "embeddings.position_embeddings", SQUEEZE),
    *dense("patch_embedding/projection", "embeddings.patch_embeddings.projection", CONVOLUTION),
    *norm("encoder/norm", "layernorm"),
)
_HF_ATTENTION = attention(
    _ATTENTION,
    f"{_LAYER}.attention.attention.query",
    f"{_LAYER}.attention.attention.key",
    f"{_LAYER}.attention.attention.value",
    f"{_LAYER}.attention.output.dense",
)
_HUGGING_FACE = (
    *_EMBEDDINGS,
    *norm(f"{_OURS}/self_attention_norm", f"{_LAYER}.layernorm_before"),
    *_HF_ATTENTION,
    *norm(f"{_OURS}/feed_forward_norm", f"{_LAYER}.layernorm_after"),
    *dense(f"{_OURS}/feed_forward/up", f"{_LAYER}.intermediate.dense"),
    *dense(f"{_OURS}/feed_forward/down", f"{_LAYER}.output.dense"),
)
NEW_SPELLINGS = (
    (r"^layers\.(\d+)\.", r"encoder.layer.\1."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"^(.*layer\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"^(.*layer\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
)
"""transformers 5 has other names in memory than in files."""
_POOLER = Drop(r"pooler\.dense\.(weight|bias)", "a projection of the class token that no published head reads")
_MASK = Drop(r"embeddings\.mask_token", "stands for hidden patches in pre-training alone")

VIT = Table((*_HUGGING_FACE, *dense("head", "classifier")), (_POOLER, _MASK), NEW_SPELLINGS, "vit.", ("classifier.",))
DEIT = Table(
    (*_HUGGING_FACE, *dense("head", "cls_classifier"), *dense("head_distillation", "distillation_classifier")),
    (_POOLER, _MASK),
    NEW_SPELLINGS,
    "deit.",
    ("cls_classifier.", "distillation_classifier.", "classifier."),
)
DEIT_WITHOUT_TEACHER = Table(
    (*_HUGGING_FACE, *dense("head", "classifier")), (_POOLER, _MASK), NEW_SPELLINGS, "deit.", DEIT.heads
)

DINOV2 = Table(
    (
        *_EMBEDDINGS,
        line("registers", "embeddings.register_tokens", SQUEEZE),
        *norm(f"{_OURS}/self_attention_norm", f"{_LAYER}.norm1"),
        *_HF_ATTENTION,
        line(f"{_OURS}/self_attention_scale", f"{_LAYER}.layer_scale1.lambda1"),
        *norm(f"{_OURS}/feed_forward_norm", f"{_LAYER}.norm2"),
        *dense(f"{_OURS}/feed_forward/up", f"{_LAYER}.mlp.fc1"),
        *dense(f"{_OURS}/feed_forward/down", f"{_LAYER}.mlp.fc2"),
        line(f"{_OURS}/feed_forward_scale", f"{_LAYER}.layer_scale2.lambda1"),
    ),
    (_MASK,),
    NEW_SPELLINGS[1:5],
)
_GATE = tuple(f"{_OURS}/feed_forward/{name}" for name in ("gate", "up"))
DINOV2_GATED = dataclasses.replace(
    DINOV2,
    lines=(
        *(one for one in DINOV2.lines if "/feed_forward/" not in one.ours[0]),
        Line(tuple(f"{name}/kernel" for name in _GATE), (f"{_LAYER}.mlp.weights_in.weight",), JOINT_DENSE),
        Line(tuple(f"{name}/bias" for name in _GATE), (f"{_LAYER}.mlp.weights_in.bias",), JOINT_DENSE),
        *dense(f"{_OURS}/feed_forward/down", f"{_LAYER}.mlp.weights_out"),
    ),
)
"""The largest, whose feed-forward networks are gated."""

_MAE_LAYER, _MAE_OURS = "decoder.decoder_layers.{}", "decoder/layer_{}"
MAE = Table(
    (
        *(one for one in _HUGGING_FACE if one.ours[0] not in ("position_embedding", "distillation_token")),
        *dense("decoder_embedding", "decoder.decoder_embed"),
        line("mask_token", "decoder.mask_token", SQUEEZE_TWICE),
        *norm(f"{_MAE_OURS}/self_attention_norm", f"{_MAE_LAYER}.layernorm_before"),
        *attention(
            f"{_MAE_OURS}/self_attention",
            f"{_MAE_LAYER}.attention.attention.query",
            f"{_MAE_LAYER}.attention.attention.key",
            f"{_MAE_LAYER}.attention.attention.value",
            f"{_MAE_LAYER}.attention.output.dense",
        ),
        *norm(f"{_MAE_OURS}/feed_forward_norm", f"{_MAE_LAYER}.layernorm_after"),
        *dense(f"{_MAE_OURS}/feed_forward/up", f"{_MAE_LAYER}.intermediate.dense"),
        *dense(f"{_MAE_OURS}/feed_forward/down", f"{_MAE_LAYER}.output.dense"),
        *norm("decoder/norm", "decoder.decoder_norm"),
        *dense("head", "decoder.decoder_pred"),
    ),
    (
        Drop(
            r"embeddings\.position_embeddings|decoder\.decoder_pos_embed",
            "sines and cosines, which follow from the grid",
        ),
    ),
    ((r"^decoder\.decoder_encoder\.layer\.", "decoder.decoder_layers."),),
    "vit.",
    ("decoder.",),
)


def mae_positions(model: Any, size: int) -> dict[str, np.ndarray]:
    """The tables of positions of a masked autoencoder for images of `size` pixels on a side, by their names: zeros for
    the class token, then sines and cosines, float32 [1, 1 + patches, width]."""
    side = size // model.patch_size
    widths = {"embeddings.position_embeddings": model.width, "decoder.decoder_pos_embed": model.decoder_width}
    patches = {
        name: np.asarray(sincos_2d(side, side, width, longest=model.longest_wave)) for name, width in widths.items()
    }
    return {name: np.pad(table, [(1, 0), (0, 0)])[None] for name, table in patches.items()}


ORIGINAL = Table(
    (
        line("cls_token", "cls", SQUEEZE_TWICE),
        line("position_embedding", "Transformer/posembed_input/pos_embedding", SQUEEZE),
        *(line(f"patch_embedding/projection/{name}", f"embedding/{name}") for name in ("kernel", "bias")),
        *(
            line(f"{_OURS}/{ours}/{name}", f"Transformer/encoderblock_{{}}/{theirs}/{name}")
            for ours, theirs, names in (
                ("self_attention_norm", "LayerNorm_0", ("scale", "bias")),
                *((f"self_attention/{one}", f"MultiHeadDotProductAttention_1/{one}", ("kernel", "bias"))
                  for one in ("query", "key", "value", "out")),
                ("feed_forward_norm", "LayerNorm_2", ("scale", "bias")),
                ("feed_forward/up", "MlpBlock_3/Dense_0", ("kernel", "bias")),
                ("feed_forward/down", "MlpBlock_3/Dense_1", ("kernel", "bias")),
            )
            for name in names
        ),
        *(line(f"encoder/norm/{name}", f"Transformer/encoder_norm/{name}") for name in ("scale", "bias")),
        *(line(f"head/{name}", f"head/{name}") for name in ("kernel", "bias")),
    ),
    drops=(Drop(r"pre_logits/(kernel|bias)", "a projection before the head of pre-training"),),
)  # fmt: skip
"""The .npz files of google-research/vision_transformer, which are Flax's arrays."""
