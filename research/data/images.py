"""Labelled images as arrays, with random changes that are a pure function of (seed, epoch, index)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.data.plans import Length
from research.data.randomness import generator
from research.data.rows import Rows
from research.data.transforms.geometry import Augmentation
from research.data.transforms.mix import Mix
from research.data.transforms.photo import PhotoAugmentation
from research.errors import UserError


@dataclasses.dataclass(frozen=True)
class LabelledImages(Rows):
    """A batch holds `image`, uint8 [batch, height, width, channels], and `label`, int32 [batch].

    mixup, cutmix: in training a batch holds `mix`, float32 [batch], and with cutmix `box`, int32 [batch, 4], too: those
    of `research.data.transforms.mix.Mix`. augmentation: None in evaluation. photo: cuts images of any size to its own,
    and changes them in training.
    """

    examples: Sequence[Mapping[str, Any]]
    augmentation: Augmentation | None
    seed: int
    mixup: float = 0.0
    photo: PhotoAugmentation | None = None
    cutmix: float = 0.0

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, indices: np.ndarray, epochs: np.ndarray, length: Length | None) -> dict[str, np.ndarray]:
        pairs = zip(indices, epochs, strict=True)
        examples = [self._example(int(index), int(epoch)) for index, epoch in pairs]
        shapes = {example["image"].shape for example in examples}
        if len(shapes) > 1:
            raise UserError(f"images of different shapes {sorted(shapes)} in one batch: set data.size to resize them")
        arrays = {"image": np.stack([example["image"] for example in examples])}
        for name, dtype in (("label", np.int32), ("mix", np.float32), ("box", np.int32)):
            if name in examples[0]:
                arrays[name] = np.array([example[name] for example in examples], dtype)
        return arrays

    def _example(self, index: int, epoch: int) -> dict[str, Any]:
        example = self.examples[index]
        example = {"image": example["image"], "label": example.get("label", 0)}  # a question has none
        if self.augmentation is None:
            return self.photo.evaluate(example) if self.photo else example
        if self.photo:
            example = self.photo(example, generator(self.seed, epoch, index, "photo"))
        random = generator(self.seed, epoch, index, "affine")  # what is mixed is drawn after it, from the same one
        return Mix(self.mixup, self.cutmix)(self.augmentation(example, random), random)
