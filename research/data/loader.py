"""The loader: reads batches ahead in a thread or in worker processes (Grain) and lands them on the devices, sharded."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Protocol

import absl.flags
import grain.python as grain
import jax
import numpy as np
from jax.sharding import Mesh

from research.data.plans import Plan
from research.parallel.mesh import batch_share, batch_ways

Batch = dict[str, np.ndarray]


class Dataset(Protocol):
    """A split as arrays: what a plan selects from."""

    def __len__(self) -> int:
        """Number of examples."""

    def lengths(self) -> np.ndarray | None:
        """Length of each example, int64, where each batch is padded to its own; None where all are equal."""

    def tokens(self) -> np.ndarray | None:
        """Of each length, how much is not padding; None where `lengths` is."""

    def batch(self, indices: np.ndarray, epochs: np.ndarray, length: int | None) -> Batch:
        """The named arrays of these examples, each with a leading batch axis.

        `epochs` seeds what is random about an example; `length` is the static length to pad to, where that applies.
        """


@dataclasses.dataclass(frozen=True)
class Batches:
    """Random access to this process's rows of the batch of every step: a sequence of `num_steps` dicts of arrays.

    share: (index, count) of the parts that processes read of a batch together. multiple, length_multiple: batches are
    filled up with padding to a number of rows, and to a length, that devices can share. Plans know nothing of devices,
    so that a run can go on with any number of them.

    To the dataset's arrays it adds `weight` (float32 [batch]): 1 for an example, 0 for padding.
    """

    dataset: Dataset
    plan: Plan
    num_steps: int
    share: tuple[int, int] = (0, 1)
    multiple: int = 1
    length_multiple: int = 1

    @classmethod
    def on_mesh(cls, dataset: Dataset, plan: Plan, num_steps: int, mesh: Mesh, accumulate: int = 1) -> "Batches":
        """The batches as a mesh needs them, cut into `accumulate` micro-batches."""
        multiple = batch_ways(mesh) * accumulate
        return cls(dataset, plan, num_steps, batch_share(mesh), multiple, mesh.shape["sequence"])

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> Batch:
        selection = self.plan(step)
        missing = -len(selection.indices) % self.multiple
        indices = np.pad(selection.indices, (0, missing), constant_values=-1)
        epochs = np.pad(selection.epochs, (0, missing))
        process, num_parts = self.share
        count = len(indices) // num_parts
        rows = slice(count * process, count * (process + 1))
        indices, epochs = indices[rows], epochs[rows]
        length = selection.length and -(-selection.length // self.length_multiple) * self.length_multiple
        # Padding rows read some existing example; their weight makes it count for nothing.
        arrays = self.dataset.batch(np.maximum(indices, 0), epochs, length)
        return {**arrays, "weight": (indices >= 0).astype(np.float32)}


def load(
    batches: Batches, start: int, place: Callable[[Batch], dict[str, jax.Array]], *, workers: int = 0, ahead: int = 2
) -> Iterator[dict[str, jax.Array]]:
    """Yields the batches from step `start` on as device arrays.

    place: puts this process's rows on its devices (`research.parallel.mesh.place_batch`).
    workers: 0 reads in one thread beside the training loop (best for cheap examples), more in as many processes.
    ahead: batches read before they are asked for.
    """
    dataset = grain.MapDataset.source(batches)[start:]
    options = grain.ReadOptions(num_threads=0 if workers else 1, prefetch_buffer_size=0 if workers else ahead)
    reader = dataset.to_iter_dataset(options)
    if workers:
        absl.flags.FLAGS.mark_as_parsed()  # Grain's worker processes read their settings from flags
        reader = reader.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=ahead))
    for batch in reader:
        yield place(batch)
