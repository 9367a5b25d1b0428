"""Semantic segmentation: a class for every pixel of an image of any size."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from research.analysis.overlays import side_by_side, with_mask
from research.data.rows import Rows
from research.data.transforms.geometry import IGNORED
from research.data.windows import CoveringWindows, RandomWindows, joined
from research.errors import UserError
from research.files import write_json
from research.metrics.segmentation import SegmentationScorer
from research.ranges import ANSWERING, Fraction, NotNegative, Pixels, Positive, Rate
from research.tasks.classification import LabelledTask
from research.tasks.logits import Logits
from research.tasks.losses import cross_entropy, soft_dice, weighted
from research.tasks.task import Apply, Example, Metrics, Scorer, View
from research.weights.preprocessing import FILE as PREPROCESSOR
from research.weights.preprocessing import resized_written, windows_of

FLIPS = {"off": ((),), "horizontal": ((), (2,)), "both": ((), (2,), (1,), (1, 2))}
"""Axes of a batch of images that are mirrored, one after the other."""
LARGEST_SCALE = 100.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segmentation(LabelledTask):
    """{"image", "mask"} of any size, in square windows; the model gives logits [batch, size, size, classes].

    Training sees one random window of each image; answers are the mean over windows that cover the image, weighted
    towards their middles (nnU-Net, Isensee et al. 2021). The loss of an image is the mean cross-entropy of its pixels
    and `dice` times 1 minus the soft Dice coefficient, mean over classes. Pixels of the class 255 do not count.

    size: pixels on a side of a window. scale: range of the factor by which training enlarges an image before it is cut.
    turns: training turns and mirrors windows in all eight ways, for images without an up. foreground: fraction of the
    training windows that are placed around a pixel of a class other than the first, where the image has one.
    overlap: of the windows of an answer, as a fraction of their size. flips: an answer is the mean over the window
    mirrored in these ways.
    """

    size: Pixels
    scale: tuple[Positive, Positive] = (1.0, 1.0)
    turns: bool = False
    foreground: Fraction = 0.0
    dice: NotNegative = 1.0
    overlap: Annotated[Rate, ANSWERING] = 0.5
    flips: Annotated[Literal["off", "horizontal", "both"], ANSWERING] = "off"

    def __post_init__(self):
        low, high = self.scale
        if not 1 / LARGEST_SCALE <= low <= high <= LARGEST_SCALE:
            raise UserError(f"task.scale {self.scale} is not a range of factors: use (least, most), 0.01 to 100")

    @classmethod
    def from_published(cls, published: Any, folder: Path) -> dict[str, Any]:
        names = published.class_names
        if len(names) > IGNORED:
            raise UserError(f"{published.folder} has {len(names)} classes: only {IGNORED} fit the pixels of a mask")
        fields, masks = windows_of(published.folder, len(names))
        write_json(folder / "classes.json", names)
        write_json(folder / "image.json", [None, None, 3])
        return {"task": fields, "data": {"name": "image_masks", "path": "my_photos", "classes": names, **masks}}

    def published(self, model: Any) -> dict[str, Any]:
        return {PREPROCESSOR: resized_written("SegformerImageProcessor", self.size, self)}

    @property
    def takes_any_size(self) -> bool:
        return True

    def labels(self, example: Example) -> Iterable[int]:
        return [int(label) for label in np.unique(example["mask"]) if label != IGNORED]

    def rows(self, examples: Sequence[Example], *, train: bool, seed: int) -> Rows:
        if train:
            options = self.scale, self.turns, self.augmentation, seed, self.foreground
            return RandomWindows(examples, self.size, *options)
        return CoveringWindows(examples, self.size, 0.0, masks=True)

    def questions(self, examples: Sequence[Example]) -> CoveringWindows:
        return CoveringWindows(examples, self.size, self.overlap, masks=False)

    def standalone(self) -> dict[str, Any]:
        given = self.image_input("windows", size=self.size, overlap=self.overlap)
        return {"input": given, "answer": {"kind": "mask", "names": list(self.class_names)}}

    def logits(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[tuple[Logits, ...], Mapping[str, Any]]:
        """Of every pixel; those of an image share its weight."""
        logits, updates = apply(*self.model_inputs(batch))
        valid = jnp.asarray(batch["mask"]) != IGNORED
        shares = valid / jnp.maximum(valid.sum(axis=(1, 2), keepdims=True), 1)
        return (Logits(logits, shares * batch["weight"][:, None, None]),), updates

    def metrics(self, logits: Sequence[Logits], batch: Mapping[str, jax.Array]) -> Metrics:
        ((values, *_),) = logits
        labels = jnp.asarray(batch["mask"]).astype(jnp.int32)
        valid = labels != IGNORED
        labels = jnp.where(valid, labels, 0)
        counts = valid.sum(axis=(1, 2))
        pixels, _ = cross_entropy(values, labels, self.label_smoothing)
        losses = (pixels * valid).sum(axis=(1, 2)) / jnp.maximum(counts, 1)
        if self.dice:
            losses += self.dice * (1 - soft_dice(values, labels, valid))
        right = (values.argmax(axis=-1) == labels) & jnp.isfinite(values).all(axis=-1)
        return {
            "loss": weighted(losses, batch["weight"] * (counts > 0)),
            "accuracy": weighted(right, valid * batch["weight"][:, None, None]),
        }

    def predict(self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> jax.Array:
        """Class probabilities of the pixels of windows, float32 [batch, size, size, classes]."""
        (images,) = self.model_inputs(batch)
        total: Any = 0.0
        for axes in FLIPS[self.flips]:
            logits: Any = model.apply(variables, jnp.flip(images, axes))
            total += jnp.flip(jax.nn.softmax(logits), axes)
        return total / len(FLIPS[self.flips])

    def answer(self, example: Example, rows: Sequence[np.ndarray]) -> dict[str, Any]:
        """`text`, the share of the pixels of each class, and `mask`, the classes row by row as runs of equal ones."""
        shape = example["image"].shape[:2]
        mask = joined(rows, self.questions([example]).windows, shape).argmax(axis=-1)
        counts = np.bincount(mask.ravel(), minlength=len(self.class_names))
        shares = {
            self.class_names[place]: int(counts[place]) / mask.size for place in np.argsort(-counts, kind="stable")
        }
        text = ", ".join(f"{name} {share:.1%}" for name, share in shares.items() if share)
        return {"text": text, "shares": shares, "classes": list(self.class_names), "mask": to_runs(mask)}

    def scorer(self) -> Scorer:
        return SegmentationScorer(
            self.class_names, lambda example, answer: (example["mask"], from_runs(answer["mask"])), IGNORED
        )

    def picture(self, example: Example, answer: Mapping[str, Any]) -> np.ndarray:
        """The image, the answer's mask over it and, where there is one, the true mask."""
        masks = [from_runs(answer["mask"])] + ([example["mask"]] if "mask" in example else [])
        count = len(self.class_names)
        return side_by_side([example["image"], *(with_mask(example["image"], mask, count) for mask in masks)])

    def sample(self, example: Example, answer: Mapping[str, Any]) -> dict[str, Any]:
        return {"image": self.picture(example, answer), "answer": answer["text"]}

    def reference(self, example: Example) -> None:
        return None

    def target(self, answer: Mapping[str, Any]) -> None:
        return None

    def view(self, example: Example, answer: Mapping[str, Any]) -> View:
        """Of the first window."""
        batch = self.questions([example]).first()
        return View(answer["text"], self.model_inputs(batch), image=batch["image"][0])

    def show(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        counts = np.bincount(batch["mask"][row].ravel(), minlength=IGNORED + 1)
        named = [f"{name} {counts[place]:,}" for place, name in enumerate(self.class_names) if counts[place]]
        lines = super(LabelledTask, self).show(batch, row)
        return f"pixels: {', '.join([*named, f'ignored {counts[IGNORED]:,}'])}; {lines}"


def to_runs(mask: np.ndarray) -> dict[str, Any]:
    """A mask [height, width] as plain values: its `size`, and `labels` and `lengths` of its runs, row by row."""
    flat = mask.ravel()
    firsts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    lengths = np.diff(np.append(firsts, flat.size))
    return {"size": list(mask.shape), "labels": flat[firsts].tolist(), "lengths": lengths.tolist()}


def from_runs(runs: Mapping[str, Any]) -> np.ndarray:
    """The mask of `to_runs`, uint8 [height, width]."""
    return np.repeat(np.array(runs["labels"], np.uint8), runs["lengths"]).reshape(runs["size"])
