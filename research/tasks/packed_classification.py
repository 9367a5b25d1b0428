"""Classification of images of any size and shape, packed as sequences of patches."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from research.data.packing import CHANNELS, PackedImages
from research.data.rows import Rows
from research.errors import UserError
from research.models.vit import as_strips
from research.ranges import Pixels, Share, Size
from research.tasks.classification import LabelledTask, label_metrics
from research.tasks.logits import Logits
from research.tasks.losses import cross_entropy
from research.tasks.task import Apply, Example, Metrics

LARGEST_ROW = 2**30
"""Bytes of pixels."""


@dataclasses.dataclass(frozen=True)
class PackedClassification(LabelledTask):
    """One label an image, whatever its size: NaViT (Dehghani et al. 2023). The model is a `vit` with `packed`.

    An example of the plan is a row of several images, so `training.batch_size`, and durations in `examples`, count
    rows; losses and metrics are means over images. Grey images enter as colour ones.

    patch_size: that of the model. max_tokens: patches of an image at most; larger images are made smaller, with their
    aspect ratio. row_tokens, images_per_row: what a row holds at most. crop: training cuts each side of an image to a
    random share of it, this at least.
    """

    patch_size: Pixels
    max_tokens: Size
    row_tokens: Size
    images_per_row: Size
    crop: Share = 1.0

    def __post_init__(self):
        if self.row_tokens < self.max_tokens:
            raise UserError(
                f"task.row_tokens {self.row_tokens} cannot hold an image of task.max_tokens {self.max_tokens}: use "
                f"{self.max_tokens} or more"
            )
        if (size := self.row_tokens * self.patch_size**2 * CHANNELS) > LARGEST_ROW:
            raise UserError(
                f"a row of task.row_tokens {self.row_tokens} of task.patch_size {self.patch_size} would hold "
                f"{size / 2**30:,.1f} GiB: use smaller ones"
            )

    @property
    def takes_any_size(self) -> bool:
        return True

    def example(self, item: Any) -> Example:
        return super().example(item) if isinstance(item, str | Path) else {"image": np.asarray(item)}

    def model_fields(self) -> dict[str, Any]:
        return {**super().model_fields(), "patch_size": self.patch_size}

    def rows(self, examples: Sequence[Example], *, train: bool, seed: int) -> Rows:
        sizes = (self.patch_size, self.max_tokens, self.row_tokens, self.images_per_row)
        return PackedImages(examples, *sizes, seed, self.augmentation if train else None, self.crop)

    def questions(self, examples: Sequence[Example]) -> Rows:
        """Each image in a row of its own, so that answers are in the order of the questions."""
        return PackedImages(examples, self.patch_size, self.max_tokens, self.max_tokens, images_per_row=1, seed=0)

    def model_inputs(self, batch: Mapping[str, jax.Array]) -> tuple:
        """Rows as images one patch high: the same parameters and the same cost as those of the packed images."""
        return (as_strips(self._patches(batch), self.patch_size),)

    def _patches(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        patches = jnp.asarray(batch["patches"])
        return self.normalised(patches.reshape(*patches.shape[:-1], -1, CHANNELS)).reshape(patches.shape)

    def _packed(self, batch: Mapping[str, jax.Array]) -> tuple:
        """The arguments of `ViT.packed`."""
        return self._patches(batch), batch["positions"], batch["segments"], batch["label"].shape[1]

    def logits(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[tuple[Logits, ...], Mapping[str, Any]]:
        logits, updates = apply(*self._packed(batch), method="packed")
        return (Logits(logits, (batch["label"] >= 0) * batch["weight"][:, None]),), updates

    def metrics(self, logits: Sequence[Logits], batch: Mapping[str, jax.Array]) -> Metrics:
        ((values, weights, *_),) = logits
        labels = jnp.maximum(batch["label"], 0)
        smoothed, _ = cross_entropy(values, labels, self.label_smoothing)
        return label_metrics(values, smoothed, labels, weights)

    def predict(self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> jax.Array:
        """Class probabilities, float32 [rows, images, classes]."""
        logits: Any = model.apply(variables, *self._packed(batch), method="packed")
        return jax.nn.softmax(logits)

    def answer(self, example: Example, rows: Sequence[np.ndarray]) -> dict[str, Any]:
        ((probabilities,),) = rows
        return super().answer(example, [probabilities])

    def sample(self, example: Example, answer: Mapping[str, Any]) -> dict[str, Any]:
        sample = {"image": example["image"], **answer}
        reference = self.reference(example)
        return sample if reference is None else sample | {"reference": reference}

    def view(self, example: Example, answer: Mapping[str, Any]) -> None:
        return None

    def show(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        lines = []
        for slot in range(batch["segments"][row].max()):
            tokens = batch["segments"][row] == slot + 1
            height, width = batch["positions"][row][tokens].max(axis=0) + 1
            label = self.class_names[batch["label"][row, slot]]
            lines.append(f"label {label!r}, {height} x {width} patches")
        padding = (batch["segments"][row] == 0).mean()
        return "\n".join([*lines, f"padding {padding:.1%} of {self.row_tokens} tokens"])
