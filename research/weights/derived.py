"""Fields that follow from several keys of a published `config.json`, and the keys that follow from our fields.

Two functions for each family (`Fields.derived`): the first takes their config and gives some of our fields, the second
takes all of our fields and gives some of their keys. Each raises UserError for what the other side does not have.
"""

from collections.abc import Mapping
from typing import Any

from research.errors import UserError
from research.models.resnet import ResNet
from research.models.swin import Swin
from research.weights.backbones import resnet_of, resnet_written, swin_of, swin_written

_NOWHERE_ELSE = {
    "backbone": None,
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone_kwargs": None,
}
"""Older keys, which must not say another backbone than `backbone_config`."""


def _dino_ours(config: Mapping[str, Any]) -> dict[str, Any]:
    """The width of the feed-forward networks; gated ones have two thirds of it, in eights."""
    width, ratio = config.get("hidden_size", 768), config.get("mlp_ratio", 4)
    if not isinstance(width, int) or not isinstance(ratio, int | float) or not 0 < width * ratio < 2**20:
        raise UserError("config.json has no numbers for hidden_size and mlp_ratio: restore it as it was published")
    gated = config.get("use_swiglu_ffn", False)
    hidden = int(width * ratio)
    return {"activation": "swiglu", "mlp_width": (hidden * 2 // 3 + 7) // 8 * 8} if gated else {"mlp_width": hidden}


def _dino_theirs(values: Mapping[str, Any]) -> dict[str, Any]:
    gated = values["activation"] == "swiglu"
    sizes = {"hidden_size": values["width"], "use_swiglu_ffn": gated}
    for ratio in range(1, 17):
        if _dino_ours({**sizes, "mlp_ratio": ratio})["mlp_width"] == values["mlp_width"]:
            return {"use_swiglu_ffn": gated, "mlp_ratio": ratio}
    raise UserError(f"model.mlp_width {values['mlp_width']} is not a size of DINOv2: use 4 times the width")


def _marian_ours(config: Mapping[str, Any]) -> dict[str, Any]:
    """Nothing, but encoder and decoder have to have the same sizes."""
    for name in ("attention_heads", "ffn_dim"):
        if config.get(f"encoder_{name}") != config.get(f"decoder_{name}"):
            raise UserError(f"config.json has another {name} in the decoder: only equal ones are known here")
    return {}


def _marian_theirs(values: Mapping[str, Any]) -> dict[str, Any]:
    return {**_decoder_theirs(values), "decoder_vocab_size": values["vocab_size"]}


def _decoder_theirs(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"decoder_attention_heads": values["num_heads"], "decoder_ffn_dim": values["mlp_width"]}


def _detr_ours(config: Mapping[str, Any]) -> dict[str, Any]:
    """The backbone, which older files name in other keys, and dropouts; encoder and decoder have the same sizes."""
    _marian_ours(config)
    if config.get("dilation"):
        raise UserError("config.json has dilation true: only models whose last level has a stride of 32 are known here")
    stored = config.get("backbone_config")
    if stored is None and config.get("use_timm_backbone", True):
        kwargs = config.get("backbone_kwargs")
        stored = {"model_type": "timm_backbone", "backbone": config.get("backbone") or "resnet50"}
        stored |= kwargs if isinstance(kwargs, dict) else {}
    if not isinstance(stored, dict) or stored.get("model_type") not in ("resnet", "timm_backbone"):
        there = stored.get("model_type") if isinstance(stored, dict) else config.get("backbone")
        raise UserError(f"config.json has the backbone {str(there)[:40]}: only ResNets are known here")
    dropouts = {name: config.get(name, 0.0) for name in ("attention_dropout", "activation_dropout")}
    return {"backbone": {**resnet_of(stored), "frozen_norm": True}, **dropouts}


def _detr_theirs(values: Mapping[str, Any]) -> dict[str, Any]:
    backbone = values["backbone"]
    if not isinstance(backbone, ResNet):
        raise UserError(f"model.backbone is a {type(backbone).__name__}: transformers' DETR is written with a resnet")
    names = ("attention_dropout", "activation_dropout")
    dropouts = {name: values["dropout"] if values[name] is None else values[name] for name in names}
    written = {"dilation": False, "backbone_config": resnet_written(backbone)}
    return {**_decoder_theirs(values), **dropouts, **_NOWHERE_ELSE, **written}


def _mae_ours(config: Mapping[str, Any]) -> dict[str, Any]:
    """Nothing, but the decoder's feed-forward networks have four times its width."""
    if config.get("decoder_intermediate_size", 2048) != 4 * config.get("decoder_hidden_size", 512):
        raise UserError("config.json has another decoder_intermediate_size than 4 times the width: give another model")
    return {}


def _mae_theirs(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"decoder_intermediate_size": 4 * values["decoder_width"]}


def _segformer_ours(config: Mapping[str, Any]) -> dict[str, Any]:
    """The expansion of the feed-forward networks, the same in each of the four stages."""
    ratios = config.get("mlp_ratios", [4] * 4)
    if not isinstance(ratios, list) or not ratios or ratios != [ratios[0]] * 4:
        raise UserError(f"config.json has mlp_ratios {str(ratios)[:40]}: only four equal ones are known here")
    return {"mlp_ratio": ratios[0]}


def _segformer_theirs(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"mlp_ratios": [values["mlp_ratio"]] * 4}


def _t5_ours(config: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs are scaled where they share the table of tokens; transformers 5 says the one, older ones the other."""
    tied = config.get("tie_word_embeddings", True) is True and config.get("scale_decoder_outputs", True) is True
    return {"own_output": not tied, "scale_outputs": tied}


def _t5_theirs(values: Mapping[str, Any]) -> dict[str, Any]:
    if values["own_output"] == values["scale_outputs"]:
        raise UserError("T5 has model.scale_outputs where it has not model.own_output: export a model of one of them")
    return {"tie_word_embeddings": values["scale_outputs"], "scale_decoder_outputs": values["scale_outputs"]}


def _upernet_ours(config: Mapping[str, Any]) -> dict[str, Any]:
    """The backbone."""
    stored = config.get("backbone_config")
    if not isinstance(stored, dict) or stored.get("model_type") != "swin":
        there = stored.get("model_type") if isinstance(stored, dict) else config.get("backbone")
        raise UserError(f"config.json has the backbone {str(there)[:40]}: only Swin Transformers are known here")
    return {"backbone": swin_of(stored)}


def _upernet_theirs(values: Mapping[str, Any]) -> dict[str, Any]:
    backbone = values["backbone"]
    if not isinstance(backbone, Swin):
        raise UserError(f"model.backbone is a {type(backbone).__name__}: transformers' UPerNet is written with a swin")
    return {"backbone_config": swin_written(backbone), "use_auxiliary_head": False, **_NOWHERE_ELSE}


DETR = (_detr_ours, _detr_theirs)
DINO = (_dino_ours, _dino_theirs)
MARIAN = (_marian_ours, _marian_theirs)
MAE = (_mae_ours, _mae_theirs)
SEGFORMER = (_segformer_ours, _segformer_theirs)
T5 = (_t5_ours, _t5_theirs)
UPERNET = (_upernet_ours, _upernet_theirs)
