"""Classification of images."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from research.data.augmentation import PhotoAugmentation
from research.data.images import Augmentation, LabelledImages
from research.data.loader import Dataset
from research.errors import UserError
from research.files import read_or_set_aside, write_json
from research.ranges import NotNegative, Number, Positive, Rate
from research.tasks.losses import cross_entropy, in_top, weighted
from research.tasks.task import Apply, Metrics


@dataclasses.dataclass(frozen=True)
class Classification:
    """One label an image. Pixels enter the model as (pixel / 255 - mean) / deviation.

    photo: crops and changes for photographs; they bring all images to one size.
    mixup: trains on mixtures of two images and their labels, with shares from Beta(mixup, mixup) (Zhang et al. 2018).
    cutmix: a box of the other image takes the place of this one's, its area from Beta(cutmix, cutmix), and the labels
    are mixed as the areas are (Yun et al. 2019). With both, each image takes one of them with probability 1/2.
    The other image is the one before in the batch.
    """

    label_smoothing: Rate = 0.0
    mean: Number = 0.5
    deviation: Positive = 0.5
    mixup: NotNegative = 0.0
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    photo: PhotoAugmentation | None = None
    class_names: tuple[str, ...] = ()
    cutmix: NotNegative = 0.0

    pad: ClassVar[int | None] = None
    scored: ClassVar[bool] = False

    def prepare(self, source: Any, folder: Path) -> "Classification":
        path = folder / "classes.json"
        stored = read_or_set_aside(path, list[str])
        names = tuple(stored or source.class_names)
        if self.class_names and self.class_names != names:
            raise UserError(f"task.class_names lists {len(self.class_names)} classes, the data have {names}: remove it")
        if not stored and jax.process_index() == 0:
            write_json(path, list(names))
        return dataclasses.replace(self, class_names=names)

    def model_fields(self) -> dict[str, Any]:
        return {"num_classes": len(self.class_names)}

    def dataset(self, examples: Sequence[Mapping[str, Any]], *, train: bool, seed: int) -> Dataset:
        if not train:
            return LabelledImages(examples, None, seed, photo=self.photo)
        return LabelledImages(examples, self.augmentation, seed, self.mixup, self.photo, self.cutmix)

    def questions(self, examples: Sequence[Mapping[str, Any]]) -> Dataset:
        return LabelledImages([{"label": 0, **example} for example in examples], None, 0, photo=self.photo)

    def model_inputs(self, batch: Mapping[str, jax.Array]) -> tuple:
        """The images, float32 [batch, height, width, channels], mixed where the batch says so."""
        images = (batch["image"].astype(jnp.float32) / 255 - self.mean) / self.deviation
        if "mix" not in batch:
            return (images,)
        share = batch["mix"][:, None, None, None]
        if "box" in batch:
            inside = _inside(batch["box"], *images.shape[1:3])[..., None]
            share = jnp.where(inside.any(axis=(1, 2), keepdims=True), ~inside, share)
        return (share * images + (1 - share) * jnp.roll(images, 1, axis=0),)

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[Metrics, Mapping[str, Any]]:
        logits, updates = apply(*self.model_inputs(batch))
        return self.metrics(logits, self.label_loss(logits, batch), batch), updates

    def label_loss(self, logits: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
        """The loss of each image against its labels, float32 [batch]; logits are [batch, classes]."""
        losses, _ = cross_entropy(logits, batch["label"], self.label_smoothing)
        if "mix" not in batch:
            return losses
        others, _ = cross_entropy(logits, jnp.roll(batch["label"], 1), self.label_smoothing)
        return batch["mix"] * losses + (1 - batch["mix"]) * others

    def metrics(self, logits: jax.Array, losses: jax.Array, batch: Mapping[str, jax.Array]) -> Metrics:
        """What is measured of logits, [batch, classes], and of the loss of each image, [batch]."""
        labels, weights = batch["label"], batch["weight"]
        return {
            "loss": weighted(losses, weights),
            "accuracy": weighted(in_top(logits, labels, 1).astype(jnp.float32), weights),
            "top5_accuracy": weighted(in_top(logits, labels, 5).astype(jnp.float32), weights),
        }

    def predict(self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> jax.Array:
        """Class probabilities, float32 [batch, classes]."""
        return jax.nn.softmax(model.apply(variables, *self.model_inputs(batch)))

    def answer(self, raw: np.ndarray) -> dict[str, Any]:
        best = int(np.argmax(raw))
        return {"label": self.class_names[best], "probability": float(raw[best])}

    def score(self, answers: Sequence[Mapping[str, Any]], examples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        return {}

    def signatures(self) -> dict[str, str]:
        return {}

    def show(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        image = batch["image"][row]
        shades = " .:-=+*#%@"
        lines = ["".join(shades[int(pixel.mean()) * len(shades) // 256] * 2 for pixel in line) for line in image]
        header = (
            f"label {self.class_names[batch['label'][row]]!r}, image {image.shape}, pixels {image.min()}-{image.max()}"
        )
        return "\n".join([header, *lines] if image.shape[1] <= 64 else [header])


def difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """How two lists of classes differ, such as "10 classes, not 9 (the first that differ: 'dog', not 'cow')"."""
    first = next((pair for pair in zip((*ours, None), (*theirs, None), strict=False) if pair[0] != pair[1]), None)
    return f"{len(ours)} classes, not {len(theirs)} (the first that differ: {first[0]!r}, not {first[1]!r})"


def _inside(boxes: jax.Array, height: int, width: int) -> jax.Array:
    """Which pixels lie in the box of their image, bool [batch, height, width]."""
    top, left, bottom, right = jnp.moveaxis(jnp.asarray(boxes), 1, 0)[..., None]
    rows, columns = jnp.arange(height), jnp.arange(width)
    return ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None, :]
