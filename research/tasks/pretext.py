"""Self-supervision: a label that is made from the image itself."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from research.data.images import LabelledImages
from research.data.plans import Length
from research.data.randomness import generator
from research.data.rows import Rows
from research.errors import UserError
from research.ranges import Range
from research.tasks.images import ImageTask
from research.tasks.losses import cross_entropy, in_top, weighted
from research.tasks.task import Apply, Example, Metrics


@dataclasses.dataclass(frozen=True)
class Pretext(ImageTask):
    """Recognising what was done to an image; the labels of the data are not read.

    change: "rotation" shows every image at 0, 90, 180 and 270 degrees (Gidaris et al. 2018); "jigsaw" cuts it into
    grid x grid tiles and puts them back in one of `permutations` orders (Noroozi & Favaro 2016, section 3), a number
    of the most different ones; grid² factorial of them, at most.
    """

    change: Literal["rotation", "jigsaw"] = "rotation"
    grid: Annotated[int, Range(2, 10)] = 2
    permutations: Annotated[int, Range(2, 1000)] = 24

    def model_fields(self) -> dict[str, Any]:
        return {"num_classes": 4 if self.change == "rotation" else len(self._orders)}

    @property
    def _orders(self) -> np.ndarray:
        return distant_permutations(self.grid**2, self.permutations)

    def rows(self, examples: Sequence[Example], *, train: bool, seed: int) -> Rows:
        images = LabelledImages(examples, self.augmentation if train else None, seed)
        return ChangedImages(images, len(self._orders), seed)

    def questions(self, examples: Sequence[Example]) -> Rows:
        return LabelledImages(examples, None, 0)

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[Metrics, Mapping[str, Any]]:
        (images,), weights = self.model_inputs(batch), batch["weight"]
        if self.change == "rotation":
            images, labels = rotated(images)
            weights = jnp.tile(weights, 4)
        else:
            labels = batch["order"]
            images = shuffled_tiles(images, jnp.asarray(self._orders)[labels], self.grid)
        logits, updates = apply(images)
        loss, _ = cross_entropy(logits, labels)
        right = in_top(logits, labels, 1).astype(jnp.float32)
        return {"loss": weighted(loss, weights), "accuracy": weighted(right, weights)}, updates

    def predict(self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> jax.Array:
        """Probabilities of what was done to the images as they are, float32 [batch, classes]."""
        logits: Any = model.apply(variables, *self.model_inputs(batch))
        return jax.nn.softmax(logits)

    def answer(self, example: Example, rows: Sequence[np.ndarray]) -> dict[str, Any]:
        (probabilities,) = rows
        best = int(np.argmax(probabilities))
        return {"label": self._name(best), "probability": float(probabilities[best])}

    def _name(self, change: int) -> str:
        return f"{90 * change} degrees" if self.change == "rotation" else str(self._orders[change].tolist())

    def reference(self, example: Example) -> str | None:
        """A question is an image as it is: nothing was done to it."""
        if self.change == "rotation":
            return self._name(0)
        unchanged = np.flatnonzero((self._orders == np.arange(self.grid**2)).all(axis=1))
        return self._name(unchanged[0]) if len(unchanged) else None

    def show(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        order = f"order {self._orders[batch['order'][row]].tolist()}, " if self.change == "jigsaw" else ""
        return order + super().show(batch, row)


@dataclasses.dataclass(frozen=True)
class ChangedImages(Rows):
    """`LabelledImages` with `order` in place of labels, int32 [batch]: a permutation, drawn anew in every epoch."""

    images: LabelledImages
    num_orders: int
    seed: int

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: np.ndarray, epochs: np.ndarray, length: Length | None) -> dict[str, np.ndarray]:
        keys = zip(epochs, indices, strict=True)
        draws = [generator(self.seed, epoch, index, "jigsaw") for epoch, index in keys]
        order = np.array([draw.integers(self.num_orders) for draw in draws], np.int32)
        return {"image": self.images.batch(indices, epochs, length)["image"], "order": order}


def rotated(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """All images [batch, size, size, channels] at 0, 90, 180 and 270 degrees, and the number of quarter turns."""
    if images.shape[1] != images.shape[2]:
        raise UserError(f"images of {images.shape[1]} x {images.shape[2]} pixels cannot be turned: use square ones")
    turns = [jnp.rot90(images, quarter, axes=(1, 2)) for quarter in range(4)]
    return jnp.concatenate(turns), jnp.repeat(jnp.arange(4), len(images))


def shuffled_tiles(images: jax.Array, orders: jax.Array, grid: int) -> jax.Array:
    """Images [batch, height, width, channels] whose tile i, row by row, is tile `orders[:, i]` of the given ones."""
    batch, height, width, channels = images.shape
    if height % grid or width % grid:
        raise UserError(f"images of {height} x {width} pixels make no {grid} x {grid} tiles: use another grid")
    tiles = images.reshape(batch, grid, height // grid, grid, width // grid, channels).swapaxes(2, 3)
    tiles = tiles.reshape(batch, grid * grid, height // grid, width // grid, channels)
    tiles = jnp.take_along_axis(tiles, orders[:, :, None, None, None], axis=1)
    tiles = tiles.reshape(batch, grid, grid, height // grid, width // grid, channels).swapaxes(2, 3)
    return tiles.reshape(images.shape)


@functools.lru_cache(maxsize=8)
def distant_permutations(length: int, count: int) -> np.ndarray:
    """At most `count` permutations of `length` things, int32 [count, length], each far from all those before it.

    Noroozi & Favaro 2016, algorithm 1, among 10,000 random ones where there are more.
    """
    if length <= 7:
        candidates = np.array(list(itertools.permutations(range(length))), np.int32)
    else:
        random = np.random.default_rng(0)
        candidates = np.stack([random.permutation(length) for _ in range(10_000)]).astype(np.int32)
    chosen = [0]
    distance = np.zeros(len(candidates), np.int64)
    taken = np.zeros(len(candidates), bool)
    taken[0] = True
    for _ in range(min(count, len(candidates)) - 1):
        distance += (candidates != candidates[chosen[-1]]).sum(axis=1)
        chosen.append(int(np.where(taken, -1, distance).argmax()))
        taken[chosen[-1]] = True
    return candidates[chosen]
