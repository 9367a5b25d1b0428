"""timm's names of architectures, and the fields of our models that they stand for."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from research.errors import UserError
from research.models import efficientformer, resnet, swin, vit

_SIZES = {"tiny": "Ti", "small": "S", "base": "B", "large": "L", "huge": "H"}


class Names(NamedTuple):
    """Architectures of one kind: a pattern of their names, our model, and its fields from the pattern's groups."""

    pattern: str
    model: str
    fields: Callable[..., dict[str, Any]]


def _vit(size: str, patch: str, distilled: str = "") -> dict[str, Any]:
    return vit.fields(f"{_SIZES[size]}/{patch}") | ({"distillation": True} if distilled else {})


NAMES = (
    Names(r"vit_(tiny|small|base|large|huge)_patch(\d+)_(?:\d+)", "vit", _vit),
    Names(
        r"deit_(tiny|small|base)_(distilled_)?patch(16)_(?:\d+)",
        "vit",
        lambda size, distilled, patch: _vit(size, patch, distilled),
    ),
    Names(r"swin_(tiny|small|base)_patch4_window7_224", "swin", lambda size: swin.fields(_SIZES[size][0])),
    Names(r"resnet(18|34|50|101)", "resnet", resnet.fields),
    Names(
        r"mobilenetv2_(\d{3})",
        "mobilenet",
        lambda percent: {"multiplier": int(percent) / 100, "head_width": round(1280 * max(1, int(percent) / 100))},
    ),
    Names(r"mobilenetv3_large_(100)", "mobilenet", lambda percent: {"version": "v3"}),
    Names(r"efficientformer_(l1|l3|l7)", "efficientformer", lambda size: efficientformer.fields(size.upper())),
)


def fields_of(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Our model's name and its fields, from timm's `config.json`. Raises UserError for another architecture."""
    name = str(config.get("architecture")).partition(".")[0]
    if config.get("model_args"):
        raise UserError(f"config.json has model_args for {name[:60]}: only timm's own settings are known here")
    for names in NAMES:
        if found := re.fullmatch(names.pattern, name):
            classes = config.get("num_classes", 1000)
            return names.model, {"num_classes": classes} | names.fields(*found.groups())
    raise UserError(f"timm's architecture {name[:60]!r} is not known here: use one of {', '.join(examples())}")


def examples() -> list[str]:
    """One name of each kind."""
    first = {names.pattern: "" for names in NAMES}
    for name in _ALL:
        pattern = next(names.pattern for names in NAMES if re.fullmatch(names.pattern, name))
        first[pattern] = first[pattern] or name
    return list(first.values())


def name_of(model_name: str, model: Any) -> str | None:
    """The architecture in timm that has a model's fields; None where it has none of these sizes."""
    for name in _ALL:
        kind, fields = fields_of({"architecture": name, "num_classes": model.num_classes})
        if kind == model_name and all(getattr(model, field) == value for field, value in fields.items()):
            return name
    return None


_ALL = (
    *(f"vit_{size}_patch{patch}_224" for size in _SIZES for patch in (8, 14, 16, 32)),
    *(f"deit_{size}_distilled_patch16_224" for size in ("tiny", "small", "base")),
    *(f"swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base")),
    *(f"resnet{size}" for size in resnet.SIZES),
    *(f"mobilenetv2_{percent}" for percent in ("050", "100", "110", "120", "140")),
    "mobilenetv3_large_100",
    *(f"efficientformer_{size.lower()}" for size in efficientformer.SIZES),
)
