"""The loader: reads batches ahead in a thread or in worker processes (Grain) and lands them on the devices, sharded."""

import contextlib
import dataclasses
import functools
import multiprocessing.connection
import os
import queue
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import absl.flags
import grain.python as grain
import numpy as np
from jax.sharding import Mesh

from research.data.plans import Length, Plan
from research.data.rows import Batch, Rows
from research.errors import UserError
from research.parallel.mesh import batch_share, batch_ways

WARN_AFTER, GIVE_UP_AFTER = 60.0, 600.0
"""Seconds to wait for a batch until a warning, and until the run ends."""
PATIENCE = 5.0
"""Seconds to wait for a reader that is not needed any more."""


@dataclasses.dataclass(frozen=True)
class Batches:
    """Random access to this process's rows of the batch of every step: a sequence of `num_steps` dicts of arrays.

    share: (index, count) of the parts that processes read of a batch together. multiple, length_multiple: batches are
    filled up with padding to a number of rows, and to a length, that devices can share. Plans know nothing of devices,
    so that a run can resume with any number of them.

    To the rows' arrays it adds `weight` (float32 [batch]): 1 for an example, 0 for padding.
    """

    rows: Rows
    plan: Plan
    num_steps: int
    share: tuple[int, int] = (0, 1)
    multiple: int = 1
    length_multiple: int = 1

    @classmethod
    def on_mesh(cls, rows: Rows, plan: Plan, num_steps: int, mesh: Mesh, accumulate: int = 1) -> "Batches":
        """The batches as a mesh needs them, cut into `accumulate` micro-batches."""
        multiple = batch_ways(mesh) * accumulate
        return cls(rows, plan, num_steps, batch_share(mesh), multiple, mesh.shape["sequence"])

    def __len__(self) -> int:
        return self.num_steps

    def examples(self, step: int) -> str:
        """The indices of a step's examples, the first few of them, for messages."""
        indices = self.plan(step).indices
        return ", ".join(map(str, indices[:8])) + (", ..." if len(indices) > 8 else "")

    def __getitem__(self, step: int) -> Batch:
        selection = self.plan(step)
        missing = -len(selection.indices) % self.multiple
        indices = np.pad(selection.indices, (0, missing), constant_values=-1)
        epochs = np.pad(selection.epochs, (0, missing))
        process, num_parts = self.share
        count = len(indices) // num_parts
        mine = slice(count * process, count * (process + 1))
        indices, epochs = indices[mine], epochs[mine]
        # Padding rows read the batch's first example, which fits its length; their weight makes it count for nothing.
        existing = np.where(indices >= 0, indices, selection.indices[0])
        arrays = self.rows.batch(existing, epochs, self._shared(selection.length))
        return {**arrays, "weight": (indices >= 0).astype(np.float32)}

    def _shared(self, length: Length | None) -> Length | None:
        """The length, or the height and width, filled up to what devices can share."""

        def shared(side: int) -> int:
            return -(-side // self.length_multiple) * self.length_multiple

        return (shared(length[0]), shared(length[1])) if isinstance(length, tuple) else length and shared(length)


def load[Placed](
    batches: Batches, start: int, place: Callable[[Batch], Placed], *, workers: int = 0, ahead: int = 2
) -> Iterator[Placed]:
    """Yields the batches from step `start` on, as `place` makes them.

    place: puts this process's rows on its devices (`research.parallel.mesh.place_batch`).
    workers: 0 reads in one thread beside the training loop (best for cheap examples), more in as many processes.
    ahead: batches read before they are asked for.

    Warns on stderr when no batch has come for a minute. Raises UserError after ten, and whatever reading raised.
    """
    with tempfile.TemporaryDirectory() as folder:
        reader = _processes(batches, start, workers, ahead, Path(folder)) if workers else _thread(batches, start)
        with _read_ahead(reader, ahead) as arrived:
            for step in range(start, len(batches)):
                number = (step - start) % workers if workers else None
                yield place(_next(arrived, functools.partial(_described, batches, step, number, Path(folder))))


def _thread(batches: Batches, start: int) -> Generator[Batch]:
    return (batches[step] for step in range(start, len(batches)))


def _processes(batches: Batches, start: int, workers: int, ahead: int, folder: Path) -> Generator[Batch]:
    """Reads with Grain's worker processes, which take turns; each leaves its process id in the folder."""

    def begin(number: int, count: int) -> None:
        (folder / str(number)).write_text(str(os.getpid()))
        threading.Thread(target=_end_with_parent, daemon=True).start()

    absl.flags.FLAGS.mark_as_parsed()  # Grain's worker processes read their settings from flags
    source = grain.MapDataset.source(batches)  # pyrefly: ignore[bad-argument-type]
    reader = source[start:].to_iter_dataset(grain.ReadOptions(0, 0))
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=ahead)
    with contextlib.closing(iter(reader.mp_prefetch(options, begin))) as iterator:
        yield from iterator


def _end_with_parent() -> None:
    """Without it a worker would wait forever for a training process that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker has one
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(0)


def _described(batches: Batches, step: int, worker: int | None, folder: Path) -> str:
    text = f"the batch of step {step} (examples {batches.examples(step)})"
    if worker is None:
        return text
    file = folder / str(worker)
    process = file.read_text(encoding="utf-8") if file.exists() else "not started"
    return f"{text}, read by worker {worker} (process {process}),"


@contextlib.contextmanager
def _read_ahead(reader: Generator[Batch], ahead: int) -> Iterator[queue.Queue]:
    """A queue that a thread fills with (batch, None), or with (None, error) where reading raised one."""
    arrived: queue.Queue = queue.Queue(ahead)
    left = threading.Event()

    def fill() -> None:
        try:
            with contextlib.closing(reader):
                for batch in reader:
                    arrived.put((batch, None))
                    if left.is_set():
                        return
        except BaseException as error:
            arrived.put((None, error))

    thread = threading.Thread(target=fill, daemon=True, name="reader")
    thread.start()
    try:
        yield arrived
    finally:
        left.set()
        with contextlib.suppress(queue.Empty):  # room for the batch at hand, after which the thread ends
            while True:
                arrived.get_nowait()
        thread.join(PATIENCE)


def _next(arrived: queue.Queue, described: Callable[[], str]) -> Batch:
    for seconds in (WARN_AFTER, GIVE_UP_AFTER - WARN_AFTER):
        try:
            batch, error = arrived.get(timeout=seconds)
        except queue.Empty:
            if seconds == WARN_AFTER:
                print(f"warning: {described()} has not come for {seconds:.0f} s", file=sys.stderr, flush=True)
            continue
        if error:
            raise error
        return batch
    raise UserError(
        f"{described()} has not come for {GIVE_UP_AFTER:.0f} s: look at what the reader and its disk are doing, or set "
        "training.workers to another number; the same command resumes from the last checkpoint"
    )
