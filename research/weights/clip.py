"""transformers' CLIP and SigLIP: two towers in one file, and in one `config.json` with a part for each."""

import math
from collections.abc import Mapping
from typing import Any

from research.errors import UserError
from research.models.two_towers import TwoTowers
from research.weights.fields import ACTIVATIONS, Derive, Field, Fields, Section, part_of
from research.weights.layouts import (
    CONVOLUTION,
    HEADS_OUT,
    JOINT,
    JOINT_BIAS,
    NUMBER,
    SAME,
    SQUEEZE,
    at_most,
)
from research.weights.table import Drop, Line, Table, attention, dense, line, norm


def _layers(ours: str, theirs: str) -> list[Line]:
    """A stack of pre-LN layers and the norm behind them."""
    layer, own = f"{theirs}.encoder.layers.{{}}", f"{ours}/layer_{{}}"
    return [
        *norm(f"{own}/self_attention_norm", f"{layer}.layer_norm1"),
        *attention(f"{own}/self_attention", *(f"{layer}.self_attn.{name}_proj" for name in ("q", "k", "v", "out"))),
        *norm(f"{own}/feed_forward_norm", f"{layer}.layer_norm2"),
        *dense(f"{own}/feed_forward/up", f"{layer}.mlp.fc1"),
        *dense(f"{own}/feed_forward/down", f"{layer}.mlp.fc2"),
    ]


_TOWERS = (
    line("image/cls_token", "vision_model.embeddings.class_embedding"),
    *dense("image/patch_embedding/projection", "vision_model.embeddings.patch_embedding", CONVOLUTION),
    line("image/position_embedding", "vision_model.embeddings.position_embedding.weight"),
    *norm("image/input_norm", "vision_model.pre_layrnorm"),
    *_layers("image/encoder", "vision_model"),
    *norm("image/encoder/norm", "vision_model.post_layernorm"),
    line("text/embedding/embedding", "text_model.embeddings.token_embedding.weight"),
    line("text/position_embedding/embedding", "text_model.embeddings.position_embedding.weight"),
    *_layers("text/decoder", "text_model"),
    *norm("text/decoder/norm", "text_model.final_layer_norm"),
)
_POSITIONS = (Drop(r"(text|vision)_model\.embeddings\.position_ids", "counts from 0"),)


def clip(model: TwoTowers) -> Table:
    """CLIP's table. Our limit of the scale has no place in theirs: what is written is held already."""
    layout = SAME if model.limit is None else at_most(math.log(model.limit))
    projections = [*dense("image_projection", "visual_projection"), *dense("text_projection", "text_projection")]
    return Table((*_TOWERS, *projections, line("log_scale", "logit_scale", layout)), _POSITIONS)


_HEAD, _POOL = "vision_model.head", "image/pool_attention"


def siglip(model: TwoTowers) -> Table:
    """SigLIP's table; the image tower pools by attention with one learned query."""
    layout = NUMBER if model.limit is None else at_most(math.log(model.limit), NUMBER)
    inputs = [f"{_POOL}/{name}" for name in ("query", "key", "value")]
    return Table(
        (
            *_TOWERS,
            line("image/pool_query", f"{_HEAD}.probe", SQUEEZE),
            Line(tuple(f"{name}/kernel" for name in inputs), (f"{_HEAD}.attention.in_proj_weight",), JOINT),
            Line(tuple(f"{name}/bias" for name in inputs), (f"{_HEAD}.attention.in_proj_bias",), JOINT_BIAS),
            *dense(f"{_POOL}/out", f"{_HEAD}.attention.out_proj", HEADS_OUT),
            *norm("image/pool_norm", f"{_HEAD}.layernorm"),
            *dense("image/pool_feed_forward/up", f"{_HEAD}.mlp.fc1"),
            *dense("image/pool_feed_forward/down", f"{_HEAD}.mlp.fc2"),
            *dense("text_projection", "text_model.head"),
            line("log_scale", "logit_scale", layout),
            line("logit_bias", "logit_bias", NUMBER),
        ),
        _POSITIONS,
    )


def _hidden(default: int) -> tuple[Derive, Derive]:
    """The width of the text tower's feed-forward networks, which ours need not say. default: what no key means."""
    return (
        lambda config: {"mlp_width": config.get("intermediate_size", default)},
        lambda values: {"intermediate_size": values["mlp_width"] or 4 * values["width"]},
    )


def _siglip_ours(config: Mapping[str, Any]) -> dict[str, Any]:
    """The width of the vectors, which is that of the image tower."""
    text, image = (part_of(config, key) for key in ("text_config", "vision_config"))
    width = text.get("projection_size") or text.get("hidden_size", 768)
    if (own := image.get("hidden_size", 768)) != width:
        raise UserError(
            f"config.json has texts of projection_size {str(width)[:20]} and images of hidden_size {str(own)[:20]}: "
            "give a model whose two vectors have one width"
        )
    return {"width": width}


def _siglip_theirs(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"text_config": {"projection_size": values["width"]}}


def _shared(activation: str, epsilon: float) -> tuple[Field, ...]:
    """Fields of both towers; of an activation's several names, the one that is the default is written."""
    return (
        Field("num_layers", "num_hidden_layers", 12),
        Field("norm_epsilon", "layer_norm_eps", epsilon),
        Field("activation", "hidden_act", activation, {activation: ACTIVATIONS[activation]} | ACTIVATIONS),
    )


def _image(patch_size: int) -> tuple[Field, ...]:
    return (
        Field("width", "hidden_size", 768),
        Field("num_heads", "num_attention_heads", 12),
        Field("mlp_width", "intermediate_size", 3072),
        Field("patch_size", "patch_size", patch_size),
    )


def _text(width: int, heads: int, vocab_size: int, length: int) -> tuple[Field, ...]:
    return (
        Field("width", "hidden_size", width),
        Field("num_heads", "num_attention_heads", heads),
        Field("vocab_size", "vocab_size", vocab_size),
        Field("max_length", "max_position_embeddings", length),
    )


_CLIP, _SIGLIP = _shared("quick_gelu", 1e-5), _shared("gelu_pytorch_tanh", 1e-6)
_FIXED = {"attention_dropout": 0.0}
_PIXELS = {**_FIXED, "num_channels": 3}

CLIP = Fields(
    (Field("width", "projection_dim", 512),),
    sections=(
        Section(
            "image",
            "vision_config",
            "vit",
            {"num_classes": 0, "input_norm": True},
            Fields((*_CLIP, *_image(32)), {**_PIXELS, "model_type": "clip_vision_model"}),
        ),
        Section(
            "text",
            "text_config",
            "gpt",
            {},
            Fields((*_CLIP, *_text(512, 8, 49408, 77)), {**_FIXED, "model_type": "clip_text_model"}, _hidden(2048)),
        ),
    ),
)
SIGLIP = Fields(
    (),
    derived=(_siglip_ours, _siglip_theirs),
    sections=(
        Section(
            "image",
            "vision_config",
            "vit",
            {"num_classes": 0, "pool": "attention"},
            Fields((*_SIGLIP, *_image(16)), {**_PIXELS, "model_type": "siglip_vision_model", "vision_use_head": True}),
        ),
        Section(
            "text",
            "text_config",
            "gpt",
            {"causal": False},
            Fields(
                (*_SIGLIP, *_text(768, 12, 32000, 64)), {**_FIXED, "model_type": "siglip_text_model"}, _hidden(3072)
            ),
        ),
    ),
)
SIGLIP_ALWAYS = {"scale": 10.0, "bias": -10.0, "projected": "text", "read_padding": True, "limit": None}
"""Of every SigLIP: what the scale and the bias start from, and how its vectors are made."""
