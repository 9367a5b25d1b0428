"""Classification of images of any size and shape, packed as sequences of patches."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from research.data.packing import CHANNELS, PackedImages
from research.data.rows import Rows
from research.data.transforms.geometry import Augmentation
from research.errors import UserError
from research.models.vit import as_strips
from research.ranges import Number, Pixels, Positive, Rate, Share, Size
from research.tasks.classification import Classification
from research.tasks.losses import cross_entropy, in_top, weighted
from research.tasks.task import Apply, Metrics

LARGEST_ROW = 2**30
"""Bytes of pixels."""


@dataclasses.dataclass(frozen=True)
class PackedClassification:
    """One label an image, whatever its size: NaViT (Dehghani et al. 2023). The model is a `vit` with `packed`.

    An example of the plan is a row of several images, so `training.batch_size`, and durations in `examples`, count
    rows; losses and metrics are means over images. Grey images enter as colour ones.

    patch_size: that of the model. max_tokens: patches of an image at most; larger images are made smaller, with their
    aspect ratio. row_tokens, images_per_row: what a row holds at most. crop: training cuts each side of an image to a
    random share of it, this at least. mean, deviation: pixels enter the model as (pixel / 255 - mean) / deviation.
    """

    patch_size: Pixels
    max_tokens: Size
    row_tokens: Size
    images_per_row: Size
    label_smoothing: Rate = 0.0
    mean: Number = 0.5
    deviation: Positive = 0.5
    crop: Share = 1.0
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    class_names: tuple[str, ...] = ()

    pad: ClassVar[int | None] = None
    scored: ClassVar[bool] = False

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

    def prepare(self, source: Any, folder: Path) -> "PackedClassification":
        names = Classification(class_names=self.class_names).prepare(source, folder).class_names
        return dataclasses.replace(self, class_names=names)

    def model_fields(self) -> dict[str, Any]:
        return {"num_classes": len(self.class_names), "patch_size": self.patch_size}

    def dataset(self, examples: Sequence[Mapping[str, Any]], *, train: bool, seed: int) -> Rows:
        sizes = (self.patch_size, self.max_tokens, self.row_tokens, self.images_per_row)
        return PackedImages(examples, *sizes, seed, self.augmentation if train else None, self.crop)

    def questions(self, examples: Sequence[Mapping[str, Any]]) -> Rows:
        """Each image in a row of its own, so that answers are in the order of the questions."""
        examples = [{"label": 0, **example} for example in examples]
        return PackedImages(examples, self.patch_size, self.max_tokens, self.max_tokens, images_per_row=1, seed=0)

    def model_inputs(self, batch: Mapping[str, jax.Array]) -> tuple:
        """Rows as images one patch high: the same parameters and the same cost as those of the packed images."""
        return (as_strips(self._patches(batch), self.patch_size),)

    def _patches(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        return (jnp.asarray(batch["patches"]).astype(jnp.float32) / 255 - self.mean) / self.deviation

    def _packed(self, batch: Mapping[str, jax.Array]) -> tuple:
        """The arguments of `ViT.packed`."""
        return self._patches(batch), batch["positions"], batch["segments"], batch["label"].shape[1]

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[Metrics, Mapping[str, Any]]:
        logits, updates = apply(*self._packed(batch), method="packed")
        weights = (batch["label"] >= 0) * batch["weight"][:, None]
        labels = jnp.maximum(batch["label"], 0)
        smoothed, _ = cross_entropy(logits, labels, self.label_smoothing)
        metrics = {
            "loss": weighted(smoothed, weights),
            "accuracy": weighted(in_top(logits, labels, 1).astype(jnp.float32), weights),
            "top5_accuracy": weighted(in_top(logits, labels, 5).astype(jnp.float32), weights),
        }
        return metrics, updates

    def predict(self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> jax.Array:
        """Class probabilities, float32 [rows, images, classes]."""
        return jax.nn.softmax(model.apply(variables, *self._packed(batch), method="packed"))

    def answer(self, raw: np.ndarray) -> dict[str, Any]:
        (probabilities,) = raw
        return Classification(class_names=self.class_names).answer(probabilities)

    def score(self, answers: Sequence[Mapping[str, Any]], examples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        return {}

    def signatures(self) -> dict[str, str]:
        return {}

    def show(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        lines = []
        for slot in range(batch["segments"][row].max()):
            tokens = batch["segments"][row] == slot + 1
            height, width = batch["positions"][row][tokens].max(axis=0) + 1
            label = self.class_names[batch["label"][row, slot]]
            lines.append(f"label {label!r}, {height} x {width} patches")
        padding = (batch["segments"][row] == 0).mean()
        return "\n".join([*lines, f"padding {padding:.1%} of {self.row_tokens} tokens"])
