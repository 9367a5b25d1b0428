"""transformers' DETR for object detection, whose backbone is their ResNet or, where it is read, timm's."""

from research.models.detr import DETR
from research.models.resnet import ResNet
from research.weights import resnet
from research.weights.layouts import POINTWISE
from research.weights.table import Line, Table, attention, dense, line, norm

_BACKBONE = "backbone.conv_encoder.model"


def _attention(ours: str, theirs: str) -> list[Line]:
    names = (f"{theirs}.{name}_proj" for name in ("q", "k", "v", "out"))
    return [*attention(ours, *names), *norm(f"{ours}_norm", f"{theirs}_layer_norm")]


def _layer(stack: str) -> list[Line]:
    ours, theirs = f"{stack}/layer_{{}}", f"{stack}.layers.{{}}"
    return [
        *_attention(f"{ours}/self_attention", f"{theirs}.self_attn"),
        *dense(f"{ours}/feed_forward/up", f"{theirs}.fc1"),
        *dense(f"{ours}/feed_forward/down", f"{theirs}.fc2"),
        *norm(f"{ours}/feed_forward_norm", f"{theirs}.final_layer_norm"),
    ]


def table(model: DETR) -> Table:
    """The table of a DETR on a ResNet; of one on another backbone, all that is not the backbone."""
    backbone = model.backbone
    return Table(
        (
            *(resnet.backbone(backbone, "backbone", _BACKBONE) if isinstance(backbone, ResNet) else ()),
            *dense("project", "input_projection", POINTWISE),
            *_layer("encoder"),
            *_layer("decoder"),
            *_attention("decoder/layer_{}/cross_attention", "decoder.layers.{}.encoder_attn"),
            *norm("decoder/norm", "decoder.layernorm"),
            line("query_embedding", "query_position_embeddings.weight"),
            *dense("head", "class_labels_classifier"),
            *dense("box_{}", "bbox_predictor.layers.{}"),
        ),
        drops=(resnet.COUNTS,),
        spellings=(
            (r"^backbone\.model\.", f"{_BACKBONE}."),
            (r"^((?:en|de)coder\..*)\.o_proj\.", r"\1.out_proj."),
            (r"^((?:en|de)coder\..*)\.mlp\.fc", r"\1.fc"),
            *resnet.spelt_as_timm(_BACKBONE.replace(".", r"\.")),
        ),
        prefix="model.",
        heads=("class_labels_classifier.", "bbox_predictor."),
    )
