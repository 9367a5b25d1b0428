"""The number of micro-batches with which a step fits in memory, as the compiler plans it (`training.accumulate`)."""

import bisect
import functools
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from research.analysis import cost
from research.errors import UserError
from research.files import read_or_set_aside, write_json
from research.parallel.mesh import batch_sharding, batch_ways
from research.training.limits import HOST_BATCHES, as_text, free_memory
from research.training.run import Run

USABLE = 0.9
"""Of a device's memory; the rest is left to the allocator and the libraries."""
USABLE_OF_HOST = 0.8
"""Of a host's, where evaluation, decoding and a checkpoint on its way to the disk need their part."""
FIRST_BATCHES = 300
"""Those among which the one that needs most is looked for."""
FILE = "micro_batches.json"


def dearest_batch(run: Run) -> Mapping[str, np.ndarray]:
    """Of the first batches, the one of the longest examples."""
    plan = run.batches.plan
    lengths = {step: (plan(step).length or 0) for step in range(min(len(run.batches), FIRST_BATCHES))}
    return run.batches[max(lengths, key=lambda step: lengths[step])]


def kept_micro_batches(folder: Path, ways: int) -> int | None:
    """What was chosen when the run began, on as many devices; None where nothing was."""
    kept = read_or_set_aside(folder / FILE, dict[str, int]) or {}
    return kept.get("micro_batches") if kept.get("ways") == ways else None


def choose_micro_batches(run: Run) -> int:
    """The fewest micro-batches whose step fits in the memory that is free; kept in the run's folder.

    No step is tried: the compiler's plan is asked. Raises UserError where not even single examples fit.
    """
    batch = dearest_batch(run)
    rows, ways = len(batch["weight"]) * jax.process_count(), batch_ways(run.mesh)
    available = _available(run, batch)
    on_cpu = run.mesh.local_devices[0].platform == "cpu"  # where a step takes its room while the last one is computed
    most = -(-rows // ways)
    counts = [1 << power for power in range(most.bit_length())]
    if run.options.batch_size is not None:  # whose number of examples stays what it is
        counts = [count for count in range(1, most + 1) if rows % (ways * count) == 0]

    @functools.cache
    def needed(count: int) -> int:
        padded = -(-rows // (ways * count)) * ways * count
        shapes = cost.abstract_batch(batch, batch_sharding(run.mesh), padded)
        planned = cost.memory(run.in_micro_batches(count).compile_step(shapes))
        return planned.total + planned.temporaries * on_cpu

    place = 0 if needed(1) <= available else bisect.bisect_left(counts, True, key=lambda n: needed(n) <= available)
    if jax.process_count() > 1:  # the least memory decides
        place = int(np.max(multihost_utils.process_allgather(np.int32(place))))
    if place == len(counts):
        raise UserError(
            f"a step of {as_text(needed(counts[-1]))} is the smallest, and {as_text(available)} of memory are free: "
            "use a smaller model, image size or length, model.remat, or mesh.fsdp"
        )
    count = counts[place]
    print(f"{count} micro-batch{'es' * (count > 1)} of {-(-rows // count)} examples a step, planned to take "
          f"{as_text(needed(count))} of the {as_text(available)} of memory that are free", flush=True)  # fmt: skip
    if jax.process_index() == 0:
        write_json(run.folder / FILE, {"micro_batches": count, "ways": ways})
    return count


def _available(run: Run, batch: Mapping[str, np.ndarray]) -> int:
    """Bytes of one device that a step may take."""
    devices = run.mesh.local_devices
    if devices[0].platform != "cpu":
        stats = devices[0].memory_stats() or {}
        return int(USABLE * stats.get("bytes_limit", 0)) - stats.get("bytes_in_use", 0)
    saved = cost.total_bytes(run.abstract_state)  # a checkpoint is written from a copy
    waiting = HOST_BATCHES * sum(array.nbytes for array in batch.values())
    return max(int(USABLE_OF_HOST * free_memory()) - waiting - saved, 0) // len(devices)
