"""transformers' UPerNet for semantic segmentation on a Swin Transformer."""

from research.models.swin import Swin
from research.models.upernet import UPerNet
from research.weights import swin
from research.weights.layouts import CONVOLUTION, POINTWISE
from research.weights.resnet import COUNTS
from research.weights.table import Drop, Line, Numbers, Table, batch_norm, dense, line, norm, numbered, within

_NORMS = "backbone.hidden_states_norms.stage"


def _from_one(numbers: Numbers) -> Numbers:
    return (numbers[0] + 1,)


def _backbone(model: Swin) -> list[Line]:
    """The last level's norm has a name of its own here."""
    return [
        *within("backbone", "backbone", swin.BODY),
        *numbered(_from_one, norm("backbone/stage_{}_norm", f"{_NORMS}{{}}")),
        *norm("backbone/norm", f"{_NORMS}{len(model.depths)}"),
    ]


def _layer(ours: str, theirs: str) -> list[Line]:
    return [
        line(f"{ours}/conv/kernel", f"decode_head.{theirs}.conv.weight", CONVOLUTION),
        *batch_norm(f"{ours}/norm", f"decode_head.{theirs}.batch_norm"),
    ]


def table(model: UPerNet) -> Table:
    """The table of a UPerNet on a Swin; of one on another backbone, all that is not the backbone."""
    return Table(
        (
            *(_backbone(model.backbone) if isinstance(model.backbone, Swin) else ()),
            *_layer("pool_{}", "psp_modules.{}.1"),
            *_layer("pooled", "bottleneck"),
            *_layer("lateral_{}", "lateral_convs.{}"),
            *_layer("smooth_{}", "fpn_convs.{}"),
            *_layer("fuse", "fpn_bottleneck"),
            *dense("head", "decode_head.classifier", POINTWISE),
        ),
        drops=(
            COUNTS,
            Drop(r"auxiliary_head\..*", "a second head, which helps their training and answers nothing"),
            Drop(r"backbone\.layernorm\..*", "a norm of their classifier, which the levels do not pass"),
            Drop(r"backbone\.encoder\..*\.relative_position_index", "indices, which follow from the size of a window"),
            Drop(r"backbone\.embeddings\.mask_token", "stands for hidden patches in pre-training alone"),
        ),
        spellings=((r"^backbone\.swin\.", "backbone."), *swin.HUGGING_FACE.spellings),
    )
