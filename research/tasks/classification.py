"""Classification of images."""

import dataclasses
import json
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
from research.files import write_json
from research.tasks.losses import cross_entropy, in_top, weighted
from research.tasks.task import Apply, Metrics


@dataclasses.dataclass(frozen=True)
class Classification:
    """One label an image. Pixels enter the model as (pixel / 255 - mean) / deviation.

    photo: crops and changes for photographs; they bring all images to one size.
    mixup: trains on mixtures of two images and their labels, with shares from Beta(mixup, mixup) (Zhang et al. 2018).
    """

    label_smoothing: float = 0.0
    mean: float = 0.5
    deviation: float = 0.5
    mixup: float = 0.0
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    photo: PhotoAugmentation | None = None
    class_names: tuple[str, ...] = ()

    pad: ClassVar[int | None] = None
    scored: ClassVar[bool] = False

    def prepare(self, source: Any, folder: Path) -> "Classification":
        path = folder / "classes.json"
        names = tuple(json.loads(path.read_text())) if path.exists() else tuple(source.class_names)
        if self.class_names and self.class_names != names:
            raise UserError(f"task.class_names lists {len(self.class_names)} classes, the data have {names}: remove it")
        if not path.exists() and jax.process_index() == 0:
            write_json(path, list(names))
        return dataclasses.replace(self, class_names=names)

    def model_fields(self) -> dict[str, Any]:
        return {"num_classes": len(self.class_names)}

    def dataset(self, examples: Sequence[Mapping[str, Any]], *, train: bool, seed: int) -> Dataset:
        if not train:
            return LabelledImages(examples, None, seed, photo=self.photo)
        return LabelledImages(examples, self.augmentation, seed, self.mixup, self.photo)

    def questions(self, examples: Sequence[Mapping[str, Any]]) -> Dataset:
        return LabelledImages([{"label": 0, **example} for example in examples], None, 0, photo=self.photo)

    def model_inputs(self, batch: Mapping[str, jax.Array]) -> tuple:
        return ((batch["image"].astype(jnp.float32) / 255 - self.mean) / self.deviation,)

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[Metrics, Mapping[str, Any]]:
        (images,), labels, weights = self.model_inputs(batch), batch["label"], batch["weight"]
        if "mix" in batch:
            share = batch["mix"][:, None, None, None]
            images = share * images + (1 - share) * jnp.roll(images, 1, axis=0)
        logits, updates = apply(images)
        smoothed, _ = cross_entropy(logits, labels, self.label_smoothing)
        if "mix" in batch:
            others, _ = cross_entropy(logits, jnp.roll(labels, 1), self.label_smoothing)
            smoothed = batch["mix"] * smoothed + (1 - batch["mix"]) * others
        metrics = {
            "loss": weighted(smoothed, weights),
            "accuracy": weighted(in_top(logits, labels, 1).astype(jnp.float32), weights),
            "top5_accuracy": weighted(in_top(logits, labels, 5).astype(jnp.float32), weights),
        }
        return metrics, updates

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
