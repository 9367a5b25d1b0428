"""Object detection: a box and a class for each object in an image."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from research.analysis.overlays import side_by_side, with_boxes
from research.data.boxed_images import FittedImages, FittedQuestions, RandomlyFitted, too_many
from research.data.rows import Rows
from research.errors import UserError
from research.files import write_json
from research.metrics.average_precision import AveragePrecisionScorer, Boxes
from research.ranges import ANSWERING, Fraction, NotNegative, Pixels, Range, Share
from research.tasks.classification import LabelledTask
from research.tasks.losses import cross_entropy, in_top, weighted
from research.tasks.set_prediction import GIOU, L1, assign, centres, corners, generalized_iou, matching_cost
from research.tasks.task import PATCHES, Apply, Example, Metrics, Scorer, View
from research.weights.preprocessing import FILE as PREPROCESSOR
from research.weights.preprocessing import boxed_of, boxed_written

SOMEWHERE = (0.5, 0.5, 0.5, 0.5)
"""Stands for a box that is not there, so that all arithmetic stays finite."""
MOST_BOXES = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detection(LabelledTask):
    """{"image", "boxes", "objects"}, as the source gives them; the model is a `detr`.

    The loss is that of DETR (Carion et al. 2020, equation 2). Queries are matched with boxes at the least cost
    (equation 1). Then it is `class_weight` times the cross-entropy of every query's class, in which queries without a
    box count `no_object`, 5 times the L1 distance of boxes and twice 1 minus their generalised IoU, summed over all
    decoder layers. All of it is divided by the number of boxes of the whole batch, where an image without any counts as
    one; the published code divides the cross-entropy by the sum of its weights.

    size: pixels on a side of the square that an image is resized to fit, its shape kept; the model sees what is beside
    it as padding. short_side: the most pixels of an image's shorter side, where `size` allows more. scale, crop: of
    training images, see `research.data.boxed_images.RandomlyFitted`. max_boxes: of an image. threshold: probability
    from which on an answer's text and picture show a box; its lists have all of them.
    """

    size: Pixels
    short_side: Pixels | None = None
    scale: Share = 1.0
    crop: Share = 1.0
    max_boxes: Annotated[int, Range(1, 1000)] = MOST_BOXES
    class_weight: NotNegative = 1.0
    no_object: NotNegative = 0.1
    threshold: Annotated[Fraction, ANSWERING] = 0.5

    @classmethod
    def from_published(cls, published: Any, folder: Path) -> dict[str, Any]:
        names = published.class_names
        write_json(folder / "classes.json", names)
        write_json(folder / "image.json", [None, None, 3])
        fields = boxed_of(published.folder) | {"max_boxes": min(MOST_BOXES, published.model.num_queries)}
        return {"task": fields, "data": {"name": "coco", "path": "my_boxes", "classes": names}}

    def published(self, model: Any) -> dict[str, Any]:
        return {PREPROCESSOR: boxed_written(self)}

    def prepare(self, source: Any, folder: Path) -> Self:
        task = super().prepare(source, folder)
        return dataclasses.replace(task, image_shape=(None, None, task.image_shape[2]))

    @property
    def takes_any_size(self) -> bool:
        return True

    def label_names(self, source: Any) -> Sequence[str]:
        return getattr(source, "object_names", None) or super().label_names(source)

    def labels(self, example: Example) -> Iterable[int]:
        return [int(label) for label in example["objects"]]

    def remarks(self, example: Example) -> list[str]:
        return [] if len(example["objects"]) <= self.max_boxes else [f"has more than {self.max_boxes} boxes"]

    def rows(self, examples: Sequence[Example], *, train: bool, seed: int) -> Rows:
        for index, count in enumerate(getattr(examples, "box_counts", ())):
            if count > self.max_boxes:
                raise too_many(index, count, self.max_boxes)
        if not train:
            return FittedImages(examples, self.size, self.max_boxes, short_side=self.short_side)
        changes = (self.scale, self.crop, self.augmentation, seed)
        return RandomlyFitted(examples, self.size, self.max_boxes, *changes, short_side=self.short_side)

    def questions(self, examples: Sequence[Example]) -> Rows:
        return FittedQuestions(examples, self.size, self.max_boxes, short_side=self.short_side)

    def standalone(self) -> dict[str, Any]:
        given = self.image_input("square", "sizes", size=self.size, short_side=self.short_side)
        answer = {"kind": "boxes", "names": list(self.class_names), "threshold": self.threshold}
        return {"input": given, "answer": answer}

    def model_inputs(self, batch: Mapping[str, Any]) -> tuple:
        """Images, float32 [batch, size, size, channels], 0 where they are padding, and `sizes`."""
        sizes = jnp.asarray(batch["sizes"])
        rows, columns = (jnp.arange(self.size) < sizes[:, axis, None] for axis in (0, 1))
        inside = rows[:, :, None, None] & columns[:, None, :, None]
        return jnp.where(inside, self.normalised(batch["image"]), 0), sizes

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[Metrics, Mapping[str, Any]]:
        (logits, boxes), updates = apply(*self.model_inputs(batch))
        layers, _, queries, classes = logits.shape
        if queries < self.max_boxes:
            raise UserError(
                f"task.max_boxes {self.max_boxes} is more than model.num_queries {queries}: use as many queries or more"
            )
        labels, there, true = self._targets(batch)
        counts = there.sum(axis=-1)
        labels, true = (jnp.broadcast_to(array[:, None], (len(array), layers, *array.shape[1:]))
                        for array in (labels, true))  # fmt: skip
        logits, boxes = jnp.swapaxes(logits, 0, 1).astype(jnp.float32), jnp.swapaxes(boxes, 0, 1)
        chosen = assign(matching_cost(jax.nn.softmax(logits), boxes, labels, true), counts)
        answers = _classes(chosen, labels, queries, classes - 1)
        entropy, _ = cross_entropy(logits, answers, self.label_smoothing)
        none = answers == classes - 1
        boxes = jnp.take_along_axis(boxes, jnp.minimum(chosen, queries - 1)[..., None], axis=-2)
        distances = jnp.abs(boxes - true).sum(axis=-1)
        apart = 1 - generalized_iou(corners(boxes), corners(true))
        weight = batch["weight"]
        entropies = jnp.where(none, self.no_object, 1) * entropy * weight[:, None, None]
        seen = there * weight[:, None]
        everywhere = jnp.broadcast_to(seen[:, None], distances.shape)
        total = self.class_weight * entropies.sum() + ((L1 * distances + GIOU * apart) * everywhere).sum()
        right = in_top(logits[:, -1], answers[:, -1], 1) & ~none[:, -1]
        metrics = {
            "loss": (total, (jnp.maximum(counts, 1) * weight).sum()),
            "class_loss": (entropies[:, -1].sum(), seen.sum()),
            "box_distance": weighted(distances[:, -1], seen),
            "giou": weighted(1 - apart[:, -1], seen),
            "class_accuracy": ((right * weight[:, None]).sum(), seen.sum()),
        }
        return metrics, updates

    def _targets(self, batch: Mapping[str, Any]) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Classes [batch, boxes], which of them are there, and boxes [batch, boxes, 4] as the model gives them."""
        labels = jnp.asarray(batch["objects"])
        there = labels >= 0
        sides = jnp.tile(jnp.asarray(batch["sizes"])[:, ::-1], 2)[:, None].astype(jnp.float32)
        true = centres(jnp.asarray(batch["boxes"]) / sides)
        return jnp.where(there, labels, 0), there, jnp.where(there[..., None], true, jnp.array(SOMEWHERE))

    def predict(
        self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """Of each query `probabilities` of the classes, float32 [batch, queries, classes], and `boxes`, left, top,
        right, bottom as fractions of the image, float32 [batch, queries, 4]."""
        outputs: Any = model.apply(variables, *self.model_inputs(batch))
        logits, boxes = outputs
        return {"probabilities": jax.nn.softmax(logits[-1])[..., :-1], "boxes": corners(boxes[-1])}

    def answer(self, example: Example, rows: Sequence[Any]) -> dict[str, Any]:
        """`boxes` (left, top, right, bottom in pixels), `scores`, `labels` and `queries`, their numbers, of all
        queries, the most probable first, and `text`, those from `threshold` on."""
        (row,) = rows
        height, width = example["image"].shape[:2]
        best, scores = row["probabilities"].argmax(axis=-1), row["probabilities"].max(axis=-1)
        boxes = np.clip(row["boxes"], 0, 1) * (width, height, width, height)
        order = np.argsort(-scores, kind="stable")
        answer = {
            "boxes": boxes[order].round(2).tolist(),
            "scores": scores[order].astype(float).tolist(),
            "labels": [self.class_names[number] for number in best[order]],
            "queries": order.tolist(),
        }
        shown = [
            f"{caption} at {','.join(str(round(side)) for side in box)}" for box, caption, _ in self._shown(answer)
        ]
        return {"text": "; ".join(shown) or "nothing", **answer}

    def _shown(self, answer: Mapping[str, Any]) -> list[tuple[list[float], str, int]]:
        """Box, caption and class of what is found with a probability from `threshold` on."""
        found = zip(answer["boxes"], answer["scores"], answer["labels"], strict=True)
        return [
            (box, f"{label} {score:.2f}", self.class_names.index(label))
            for box, score, label in found
            if score >= self.threshold
        ]

    def scorer(self) -> Scorer:
        return AveragePrecisionScorer(self.class_names, self._compared)

    def _compared(self, example: Example, answer: Mapping[str, Any]) -> tuple[Boxes, Boxes]:
        """What is true of an example, and what its answer found."""
        found = np.array([self.class_names.index(label) for label in answer["labels"]], np.int64)
        boxes = np.array(answer["boxes"], np.float64).reshape(-1, 4)
        true = Boxes(example["boxes"], example["objects"], areas=example.get("areas"), crowd=example.get("crowd"))
        return true, Boxes(boxes, found, scores=np.array(answer["scores"]))

    def picture(self, example: Example, answer: Mapping[str, Any]) -> np.ndarray:
        """The image, the answer's boxes over it and, where there are any, the true ones."""
        image, found, count = example["image"], self._shown(answer), len(self.class_names)
        boxes = np.array([box for box, _, _ in found]).reshape(-1, 4)
        captions, numbers = [caption for _, caption, _ in found], [number for _, _, number in found]
        pictures = [image, with_boxes(image, boxes, numbers, captions, count)]
        if "boxes" in example:
            numbers = example["objects"].tolist()
            names = [self.class_names[number] for number in numbers]
            pictures.append(with_boxes(image, example["boxes"], numbers, names, count))
        return side_by_side(pictures)

    def sample(self, example: Example, answer: Mapping[str, Any]) -> dict[str, Any]:
        return {"image": self.picture(example, answer), "answer": answer["text"]}

    def reference(self, example: Example) -> None:
        return None

    def target(self, answer: Mapping[str, Any]) -> None:
        return None

    def view(self, example: Example, answer: Mapping[str, Any]) -> View:
        """The image in its square, and what each query found."""
        batch, names = self.questions([example]).first(), [""] * len(answer["queries"])
        for query, (_, caption, _) in zip(answer["queries"], self._shown(answer), strict=False):
            names[query] = caption
        return View(answer["text"], self.model_inputs(batch), {"queries": names}, sides, batch["image"][0])

    def show(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        pairs = zip(batch["objects"][row].tolist(), batch["boxes"][row].round().astype(int).tolist(), strict=True)
        named = [f"{self.class_names[number]} at {','.join(map(str, box))}" for number, box in pairs if number >= 0]
        height, width = batch["sizes"][row]
        return f"{height} x {width} pixels: {'; '.join(named) or 'nothing'}"


def sides(path: str) -> tuple[str, str]:
    """What the queries and the keys of a detector's layer are; what queries tell each other is not shown."""
    if not path.startswith("decoder"):
        return PATCHES, PATCHES
    return "queries", PATCHES if "cross" in path else "themselves"


def _classes(chosen: jax.Array, labels: jax.Array, queries: int, none: int) -> jax.Array:
    """The class that each query shall answer, int32 [..., queries]: its box's, or `none`.

    chosen: the query of each box, [..., boxes], `queries` for none; labels: the boxes' classes.
    """
    mine = chosen[..., None] == jnp.arange(queries)
    return jnp.where(mine.any(axis=-2), (mine * labels[..., None]).sum(axis=-2), none)
