"""Classification of images."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from research.data.images import LabelledImages
from research.data.rows import Rows
from research.data.transforms.photo import PhotoAugmentation
from research.errors import UserError
from research.files import read_or_set_aside, write_json
from research.ranges import NotNegative, Rate
from research.tasks.images import ImageTask
from research.tasks.logits import Logits
from research.tasks.losses import cross_entropy, in_top, weighted
from research.tasks.task import Apply, Example, Metrics, difference, no_answers
from research.weights.preprocessing import FILE as PREPROCESSOR
from research.weights.preprocessing import photo_of, photo_written


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledTask(ImageTask):
    """A task whose answers are the data's classes: `class_names`, kept in the run's folder."""

    label_smoothing: Rate = 0.0
    class_names: tuple[str, ...] = ()

    def prepare(self, source: Any, folder: Path) -> Self:
        task = super().prepare(source, folder)
        path = folder / "classes.json"
        stored = read_or_set_aside(path, list[str])
        names = tuple(stored or self.label_names(source))
        if self.class_names and self.class_names != names:
            raise UserError(f"task.class_names lists {len(self.class_names)} classes, the data have {names}: remove it")
        if not stored and jax.process_index() == 0:
            write_json(path, list(names))
        return dataclasses.replace(task, class_names=names)

    def check_source(self, source: Any, folder: Path) -> None:
        if not hasattr(source, "class_names"):
            raise UserError(f"the data have no classes, unlike when {folder} began: give data of the same kind")
        names = tuple(self.label_names(source))
        if names != self.class_names:
            raise UserError(
                f"the data have {difference(names, self.class_names)}, unlike when {folder} began: give "
                "the data it had, or use another --workdir"
            )

    def model_fields(self) -> dict[str, Any]:
        return {"num_classes": len(self.class_names)}

    def answer(self, example: Example, rows: Sequence[np.ndarray]) -> dict[str, Any]:
        (probabilities,) = rows
        best = int(np.argmax(probabilities))
        return {"label": self.class_names[best], "probability": float(probabilities[best])}

    def reference(self, example: Example) -> str | None:
        return self.class_names[int(example["label"])] if "label" in example else None

    def target(self, answer: Mapping[str, Any]) -> int | None:
        return self.class_names.index(answer["label"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(LabelledTask):
    """One label an image.

    photo: crops and changes for photographs; they bring all images to one size.
    mixup: trains on mixtures of two images and their labels, with shares from Beta(mixup, mixup) (Zhang et al. 2018).
    cutmix: a box of the other image takes the place of this one's, its area from Beta(cutmix, cutmix), and the labels
    are mixed as the areas are (Yun et al. 2019). With both, each image takes one of them with probability 1/2.
    The other image is the one before in the batch.
    """

    mixup: NotNegative = 0.0
    photo: PhotoAugmentation | None = None
    cutmix: NotNegative = 0.0

    @classmethod
    def from_published(cls, published: Any, folder: Path) -> dict[str, Any]:
        if not published.model.num_classes:
            raise no_answers(published.folder)
        write_json(folder / "classes.json", published.class_names)
        write_json(folder / "image.json", [None, None, 3])
        fields = photo_of(published.folder, published.config, published.image_size)
        return {"task": fields, "data": {"name": "image_folder", "path": "my_photos"}}

    def published(self, model: Any) -> dict[str, Any]:
        return {} if self.photo is None else {PREPROCESSOR: photo_written(self)}

    def standalone(self) -> dict[str, Any]:
        photo = self.photo and self.photo.evaluated
        names = list(self.class_names)
        return {"input": self.image_input("image", photo=photo), "answer": {"kind": "label", "names": names}}

    def rows(self, examples: Sequence[Example], *, train: bool, seed: int) -> Rows:
        if not train:
            return LabelledImages(examples, None, seed, photo=self.photo)
        return LabelledImages(examples, self.augmentation, seed, self.mixup, self.photo, self.cutmix)

    def questions(self, examples: Sequence[Example]) -> Rows:
        return LabelledImages(examples, None, 0, photo=self.photo)

    def mixed(self, batch: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
        """The batch with each image's partner, `other_image` and `other_label`, where images are mixed."""
        if "mix" not in batch:
            return batch
        return {**batch, **{f"other_{name}": jnp.roll(batch[name], 1, axis=0) for name in ("image", "label")}}

    def model_inputs(self, batch: Mapping[str, jax.Array]) -> tuple:
        """The images, float32 [batch, height, width, channels], mixed where the batch says so."""
        images = self.normalised(batch["image"])
        if "other_image" not in batch:
            return (images,)
        share = batch["mix"][:, None, None, None]
        if "box" in batch:
            inside = _inside(batch["box"], *images.shape[1:3])[..., None]
            share = jnp.where(inside.any(axis=(1, 2), keepdims=True), ~inside, share)
        return (share * images + (1 - share) * self.normalised(batch["other_image"]),)

    def logits(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[tuple[Logits, ...], Mapping[str, Any]]:
        logits, updates = apply(*self.model_inputs(batch))
        return (Logits(logits, batch["weight"]),), updates

    def _label_loss(self, logits: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
        """The loss of each image against its labels, float32 [batch]; logits are [batch, classes]."""
        losses, _ = cross_entropy(logits, batch["label"], self.label_smoothing)
        if "other_label" not in batch:
            return losses
        others, _ = cross_entropy(logits, batch["other_label"], self.label_smoothing)
        return batch["mix"] * losses + (1 - batch["mix"]) * others

    def metrics(self, logits: Sequence[Logits], batch: Mapping[str, jax.Array]) -> Metrics:
        ((values, weights, *_),) = logits
        return label_metrics(values, self._label_loss(values, batch), batch["label"], weights)

    def predict(self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> jax.Array:
        """Class probabilities, float32 [batch, classes]."""
        logits: Any = model.apply(variables, *self.model_inputs(batch))
        return jax.nn.softmax(logits)

    def show(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        return f"label {self.class_names[batch['label'][row]]!r}, {super().show(batch, row)}"


def label_metrics(logits: jax.Array, losses: jax.Array, labels: jax.Array, weights: jax.Array) -> Metrics:
    """Loss and accuracy of logits [..., classes] against labels [...]; losses and weights are [...]."""
    return {
        "loss": weighted(losses, weights),
        "accuracy": weighted(in_top(logits, labels, 1).astype(jnp.float32), weights),
        "top5_accuracy": weighted(in_top(logits, labels, 5).astype(jnp.float32), weights),
    }


def _inside(boxes: jax.Array, height: int, width: int) -> jax.Array:
    """Which pixels lie in the box of their image, bool [batch, height, width]."""
    top, left, bottom, right = jnp.moveaxis(jnp.asarray(boxes), 1, 0)[..., None]
    rows, columns = jnp.arange(height), jnp.arange(width)
    return ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None, :]
