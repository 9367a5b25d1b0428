"""timm's MobileNets."""

from research.models.mobilenet import V2, V3, MobileNet
from research.weights.layouts import POINTWISE
from research.weights.resnet import COUNTS, conv_norm
from research.weights.table import Line, Numbers, Table, dense, numbered

_OURS, _THEIRS = "row_{}_block_{}", "blocks.{}.{}"
_FIRST = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}
"""timm's first block, which does not expand, is of another class."""
_LAYERS = {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2"), "project": ("conv_pwl", "bn3")}
_SQUEEZE = {"squeeze": "se.conv_reduce", "excite": "se.conv_expand"}


def timm(model: MobileNet) -> Table:
    """The table of a version."""
    places = _places(model.version)
    others = [one for ours, names in _LAYERS.items() for one in _layer(ours, names)]
    for ours, theirs in _SQUEEZE.items():
        others += dense(f"{_OURS}/{ours}", f"{_THEIRS}.{theirs}", POINTWISE)
    if model.version == "v2":
        last = conv_norm("last_convolution", "conv_head", "bn2")
    else:
        block = f"blocks.{max(stage for stage, _ in places.values()) + 1}.0"
        last = conv_norm("last_convolution", f"{block}.conv", f"{block}.bn1")
        last += dense("last", "conv_head", POINTWISE)
    return Table(
        (
            *conv_norm("stem", "conv_stem", "bn1"),
            *(one for ours, names in _FIRST.items() for one in numbered(_first, _layer(ours, names))),
            *numbered(lambda ours: places[ours] if ours[0] else None, others),
            *last,
            *dense("head", "classifier"),
        ),
        drops=(COUNTS,),
    )


def _first(ours: Numbers) -> Numbers | None:
    return None if ours[0] else ours


def _layer(name: str, names: tuple[str, str]) -> list[Line]:
    return conv_norm(f"{_OURS}/{name}", f"{_THEIRS}.{names[0]}", f"{_THEIRS}.{names[1]}")


def _places(version: str) -> dict[Numbers, Numbers]:
    """(stage, block) in timm of each of our (row, block): rows of equal width are one stage there."""
    table = {"v2": V2, "v3": V3}[version]
    places: dict[Numbers, Numbers] = {}
    stage, before = -1, 0
    for number, row in enumerate(table):
        if not number or row.channels != table[number - 1].channels:
            stage, before = stage + 1, 0
        places |= {(number, index): (stage, before + index) for index in range(row.repeats)}
        before += row.repeats
    return places
