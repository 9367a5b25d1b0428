"""The sizes that both sides of the benchmark have, without either side's libraries."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Row:
    """A model and its batch. length: tokens of a row, 0 for images; side: pixels of an image's."""

    kind: str
    batch: int
    fields: dict[str, Any]
    small: dict[str, Any]
    length: int = 0
    vocabulary: int = 50_257
    side: int = 224
    classes: int = 1000

    def tiny(self) -> "Row":
        """A size that says nothing about speed."""
        sizes = {"batch": 2, "fields": self.fields | self.small, "vocabulary": 128, "side": 32, "classes": 8}
        return dataclasses.replace(self, **sizes, length=min(self.length, 64))


LAYERS = {"num_layers": 1, "width": 64, "num_heads": 1}
TRANSFORMER = LAYERS | {"mlp_width": 64}
BASE = {"num_layers": 12, "width": 768, "num_heads": 12}
ROWS = {
    "gpt2": Row("gpt", 16, BASE, LAYERS, length=1024),
    "bert_base": Row("bert", 32, BASE | {"mlp_width": 3072}, TRANSFORMER, length=512, vocabulary=30_522),
    "vit_b16": Row("vit", 128, BASE | {"mlp_width": 3072, "patch_size": 16}, TRANSFORMER),
    "resnet50": Row("resnet", 128, {"depths": (3, 4, 6, 3), "bottleneck": True}, {"depths": (1,), "width": 8}),
    "swin_t": Row(
        "swin",
        128,
        {"width": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
        {"width": 32, "depths": (1, 1), "num_heads": (1, 1), "window": 4},
    ),
}
"""Models in their published sizes."""

GENERATED, PROMPT = 128, 64
"""Tokens that decoding adds, and those that it is given."""
BATCHES = (1, 16, 64)
TOP_K = 50
