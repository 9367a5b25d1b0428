"""The families of published models that are read and written: the one place that a new one is added to."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from research.errors import UserError
from research.models.contract import WithHead
from research.models.efficientformer import EfficientFormer
from research.models.mobilenet import MobileNet
from research.models.resnet import ResNet
from research.models.swin import Swin
from research.models.vit import ViT
from research.weights import efficientformer, mobilenet, resnet, swin, vit
from research.weights.dense import DENSE
from research.weights.family import always
from research.weights.image_families import IMAGES
from research.weights.match import best, match, read, shapes_of
from research.weights.table import Table
from research.weights.text_families import TEXTS

FAMILIES = (*TEXTS, *IMAGES, *DENSE)
"""transformers' models."""

TIMM: Mapping[type, Callable[[Any], tuple[Table, ...]]] = {
    ViT: always(vit.TIMM),
    Swin: always(swin.TIMM),
    ResNet: lambda model: (resnet.timm(model),),
    MobileNet: lambda model: (mobilenet.timm(model),),
    EfficientFormer: lambda model: (efficientformer.timm(model),),
}
"""timm's models, by ours."""


def tables_of(model: Any) -> list[Table]:
    """Every table in which a model of this class may be published: timm's first. Under a new layer of a task, those of
    the model that it is on come last."""
    tables = list(TIMM.get(type(model), lambda model: ())(model))
    tables += [vit.ORIGINAL] * isinstance(model, ViT)
    tables += [table for family in FAMILIES if type(model) is family.cls for table in family.tables(model)]
    return tables + (tables_of(model.body) if isinstance(model, WithHead) else [])


def taken(model: Any, inputs: Sequence[Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of a published file by our paths, as far as a table for such a model knows their names.

    What it does not know keeps its name, for whoever asks to say so; what it drops is left out. inputs: as the model is
    called with. Raises UserError where no table knows any of the names.
    """
    shapes = shapes_of(model, inputs)
    if (table := best(tables_of(model), shapes, arrays)) is None:
        first = next(iter(arrays), "")
        raise UserError(f"transfer.source has no names that {type(model).__name__} reads ({first!r}, ...): convert it")
    found = match(table, shapes, arrays)
    return dict(read(found, arrays)) | {name: arrays[name] for name in found.unexpected}
