"""Mixtures of an image with another of its batch: how much, and where."""

import dataclasses
import math
from typing import Any

import numpy as np

from research.ranges import NotNegative


@dataclasses.dataclass(frozen=True)
class Mix:
    """Adds to an example what it keeps of itself; the other one is mixed in when the batch is whole.

    mixup: the parameter of the Beta distribution of `mix`, the share of the image in the mixture (Zhang et al. 2018).
    cutmix: the same for `box`, the rows and columns (top, left, bottom, right) that are another's (Yun et al. 2019);
    `mix` is then the share of the area that is left. With both, an image is mixed or cut, each in half of the cases,
    and the box of one that is mixed is empty. 0 leaves them out.
    """

    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0

    def __call__(self, example: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
        """The example with `mix` and, where there is cutmix, `box`."""
        if self.cutmix and not (self.mixup and random.random() < 0.5):
            size = example["image"].shape[:2]
            top, left, bottom, right = cut_box(*size, share=random.beta(self.cutmix, self.cutmix), random=random)
            share = 1 - (bottom - top) * (right - left) / math.prod(size)
            return {**example, "mix": share, "box": (top, left, bottom, right)}
        if not self.mixup:
            return example
        box = {"box": (0, 0, 0, 0)} if self.cutmix else {}
        return {**example, "mix": random.beta(self.mixup, self.mixup), **box}


def cut_box(height: int, width: int, share: float, random: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of a box of the image's shape and 1 - share of its area (Yun et al. 2019, section 3).

    Its centre is anywhere in the image; what of it lies outside is cut off.
    """
    ratio = math.sqrt(1 - share)
    sizes = int(height * ratio), int(width * ratio)
    starts = [int(random.integers(side)) - size // 2 for side, size in zip((height, width), sizes, strict=True)]
    ends = [start + size for start, size in zip(starts, sizes, strict=True)]
    return max(starts[0], 0), max(starts[1], 0), min(ends[0], height), min(ends[1], width)
