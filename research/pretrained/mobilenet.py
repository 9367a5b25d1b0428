"""timm's MobileNets in our names."""

import numpy as np

from research.models.mobilenet import V2, V3
from research.pretrained.convert import Renamed, leaf, split

_LAYERS = {
    "conv_pw": "expand/conv",
    "bn1": "expand/norm",
    "conv_dw": "depthwise/conv",
    "bn2": "depthwise/norm",
    "conv_pwl": "project/conv",
    "bn3": "project/norm",
    "se.conv_reduce": "squeeze",
    "se.conv_expand": "excite",
}
_FIRST = {"conv_dw": "depthwise/conv", "bn1": "depthwise/norm", "conv_pw": "project/conv", "bn2": "project/norm"}
"""timm's first block, which does not expand, is of another class."""
_TOP = {"conv_stem": "stem/conv", "bn1": "stem/norm", "bn2": "last_convolution/norm", "classifier": "head"}


def rename(name: str, array: np.ndarray, *, version: str) -> Renamed:
    """See `convert`."""
    path, kind = split(name)
    if not path.startswith("blocks."):
        head = "last_convolution/conv" if version == "v2" else "last"
        path = _TOP.get(path, head)
        if path == "last" and kind == "weight":
            array = array[:, :, 0, 0]
        yield leaf(path, kind, array)
        return
    _, stage, block, layer = path.split(".", 3)
    rows = _stages(version)
    if int(stage) == len(rows):  # the last convolution, a block of its own in V3
        yield leaf(f"last_convolution/{'conv' if layer == 'conv' else 'norm'}", kind, array)
        return
    row, index = rows[int(stage)][int(block)]
    ours = (_FIRST if stage == "0" else _LAYERS)[layer]
    if layer.startswith("se.") and kind == "weight":
        array = array[:, :, 0, 0]
    yield leaf(f"row_{row}_block_{index}/{ours}", kind, array)


def _stages(version: str) -> list[list[tuple[int, int]]]:
    """(row, block) of each block, by timm's stages: rows that keep the stride and differ only in V3's width are one."""
    table = {"v2": V2, "v3": V3}[version]
    stages: list[list[tuple[int, int]]] = []
    for number, row in enumerate(table):
        if not number or row.channels != table[number - 1].channels:
            stages.append([])
        stages[-1].extend((number, index) for index in range(row.repeats))
    return stages
