"""Masked image modelling: painting the patches of an image that the model was not shown."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from research.data.images import LabelledImages
from research.data.plans import Length
from research.data.randomness import generator
from research.data.rows import Rows
from research.errors import UserError
from research.ranges import Part, Pixels
from research.tasks.images import ImageTask
from research.tasks.losses import weighted
from research.tasks.task import Apply, Example, Metrics
from research.weights.preprocessing import FILE as PREPROCESSOR
from research.weights.preprocessing import resized_written


@dataclasses.dataclass(frozen=True)
class MaskedImages(ImageTask):
    """The mean squared error of the patches that were not shown (He et al. 2022, section 3); labels are not read.

    patch_size: that of the model. masked: share of the patches that are not shown, that of the model. normalise: each
    patch's pixels are shifted and scaled to mean 0 and deviation 1 before they are compared (section 3, "Reconstruction
    target").
    """

    patch_size: Pixels
    masked: Part = 0.75
    normalise: bool = True

    def published(self, model: Any) -> dict[str, Any]:
        return {PREPROCESSOR: resized_written("ViTImageProcessor", self.image_shape[0], self)}

    def model_fields(self) -> dict[str, Any]:
        return {"patch_size": self.patch_size, "masked": self.masked}

    def rows(self, examples: Sequence[Example], *, train: bool, seed: int) -> Rows:
        images = LabelledImages(examples, self.augmentation if train else None, seed)
        return MaskedPatches(images, self.patch_size, seed)

    def model_inputs(self, batch: Mapping[str, jax.Array]) -> tuple:
        return (self._pixels(batch), batch["order"])

    def _pixels(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        images = self.normalised(batch["image"])
        return jnp.broadcast_to(images, (*images.shape[:3], 3))  # grey images as colour ones

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[Metrics, Mapping[str, Any]]:
        images, order = self.model_inputs(batch)
        painted, updates = apply(images, order)
        errors = self._errors(painted, images, order)
        return {"loss": weighted(errors, batch["weight"])}, updates

    def _errors(self, painted: jax.Array, images: jax.Array, order: jax.Array) -> jax.Array:
        """The mean squared error over the hidden patches of each image, float32 [batch]."""
        patches = to_patches(images, self.patch_size)
        if self.normalise:
            mean, variance = patches.mean(axis=-1, keepdims=True), patches.var(axis=-1, keepdims=True)
            patches = (patches - mean) / jnp.sqrt(variance + 1e-6)
        hidden = order[:, int(order.shape[1] * (1 - self.masked)) :]
        squares = ((painted.astype(jnp.float32) - patches) ** 2).mean(axis=-1)
        return jnp.take_along_axis(squares, hidden, axis=1).mean(axis=1)

    def predict(self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> jax.Array:
        """The error of each image, float32 [batch]."""
        images, order = self.model_inputs(batch)
        painted: Any = model.apply(variables, images, order)
        return self._errors(painted, images, order)

    def answer(self, example: Example, rows: Sequence[np.ndarray]) -> dict[str, Any]:
        return {"text": f"mean squared error of the hidden patches {float(rows[0]):.4f}"}

    def sample(self, example: Example, answer: Mapping[str, Any]) -> dict[str, Any]:
        return {"image": example["image"], "answer": answer["text"]}

    def view(self, example: Example, answer: Mapping[str, Any]) -> None:
        return None

    def show(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        image, order = batch["image"][row], batch["order"][row]
        shown = sorted(order[: int(len(order) * (1 - self.masked))].tolist())
        return f"image {image.shape}, pixels {image.min()}-{image.max()}, patches shown {shown}"


@dataclasses.dataclass(frozen=True)
class MaskedPatches(Rows):
    """Images with `order`, int32 [batch, patches]: patches shuffled anew in every epoch; the first ones are shown."""

    images: LabelledImages
    patch_size: int
    seed: int

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: np.ndarray, epochs: np.ndarray, length: Length | None) -> dict[str, np.ndarray]:
        images = self.images.batch(indices, epochs, length)["image"]
        height, width = images.shape[1:3]
        if height % self.patch_size or width % self.patch_size:
            raise UserError(f"task.patch_size {self.patch_size} does not divide images of {height} x {width} pixels")
        count = (height // self.patch_size) * (width // self.patch_size)
        keys = zip(epochs, indices, strict=True)
        orders = [generator(self.seed, epoch, index, "mask").permutation(count) for epoch, index in keys]
        return {"image": images, "order": np.stack(orders).astype(np.int32)}


def to_patches(images: jax.Array, patch_size: int) -> jax.Array:
    """Images [batch, height, width, channels] as rows of patches, [batch, patches, patch_size² · channels]."""
    batch, height, width, channels = images.shape
    rows, columns = height // patch_size, width // patch_size
    tiles = images.reshape(batch, rows, patch_size, columns, patch_size, channels).swapaxes(2, 3)
    return tiles.reshape(batch, rows * columns, patch_size**2 * channels)
