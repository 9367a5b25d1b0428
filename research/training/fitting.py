"""The number of micro-batches with which a step fits in memory, as the compiler plans it (`training.accumulate`)."""

import bisect
import functools
import math
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from research.analysis import cost
from research.data.plans import Bucketed
from research.errors import UserError
from research.files import read_or_set_aside, set_aside, write_json
from research.parallel.mesh import batch_sharding, batch_ways
from research.training.limits import HOST_BATCHES, as_text, free_memory
from research.training.run import Run

USABLE = 0.9
"""Of a device's memory; the rest is left to the allocator and the libraries."""
USABLE_OF_HOST = 0.8
"""Of a host's, where evaluation, decoding and a checkpoint on its way to the disk need their part."""
FILE = "micro_batches.json"
MOST = 2**16
"""Micro-batches of a step that anybody has a use for."""


def dearest_batch(run: Run) -> Mapping[str, np.ndarray]:
    """A batch of the longest texts or largest images that the run reads in an epoch."""
    plan = run.batches.plan
    if not isinstance(plan, Bucketed):
        return run.batches[0]
    largest, dearest, most = max(_area(bucket.length) for bucket in plan.buckets), 0, 0
    for step in range(min(len(run.batches), int(plan.steps_per_epoch) + 1)):
        if (area := _area(plan(step).length)) > most:
            dearest, most = step, area
        if most == largest:
            break
    return run.batches[dearest]


def _area(length: int | tuple[int, int] | None) -> int:
    return math.prod(length) if isinstance(length, tuple) else length or 0


def kept_micro_batches(folder: Path, batch_size: int | None, ways: int) -> int | None:
    """What was chosen when the run began on a mesh that cuts batches into as many parts; None where nothing was."""
    kept = (read_or_set_aside(folder / FILE, dict[str, int]) or {}).get(str(ways))
    if kept is not None and (not 1 <= kept <= MOST or (batch_size or kept * ways) % (kept * ways)):
        set_aside(folder / FILE, f"{kept} micro-batches do not fit the batches of {folder}")
        return None
    return kept


def choose_micro_batches(run: Run) -> int:
    """The fewest micro-batches whose step fits in the memory that is free; kept in the run's folder.

    No step is tried: the compiler's plan is asked. Raises UserError where not even single examples fit.
    """
    batch = dearest_batch(run)
    rows, ways = len(batch["weight"]) * run.batches.share[1], batch_ways(run.mesh)
    available = _available(run, batch)
    on_cpu = run.mesh.local_devices[0].platform == "cpu"  # where a step takes its room while the last one is computed
    if jax.process_count() > 1:  # the least memory decides, and all ask for the same plans
        available = int(np.min(multihost_utils.process_allgather(np.int64(available))))
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
    if place == len(counts):
        raise UserError(
            f"a step of {as_text(needed(counts[-1]))} is the smallest, and {as_text(available)} of memory are free: "
            "use a smaller model, image size or length, model.remat, or mesh.fsdp"
        )
    count = counts[place]
    print(f"{count} micro-batch{'es' * (count > 1)} of {-(-rows // count)} examples a step, planned to take "
          f"{as_text(needed(count))} of the {as_text(available)} of memory that are free", flush=True)  # fmt: skip
    if jax.process_index() == 0:
        kept = read_or_set_aside(run.folder / FILE, dict[str, int]) or {}
        write_json(run.folder / FILE, {**kept, str(ways): count})
    return count


def _available(run: Run, batch: Mapping[str, np.ndarray]) -> int:
    """Bytes of one device that a step may take; a teacher, which is there already, is among what a step takes."""
    devices = run.mesh.local_devices
    taught = cost.bytes_per_device(run.taught) if run.taught is not None else 0
    if devices[0].platform != "cpu":
        stats = devices[0].memory_stats() or {}
        if "bytes_limit" not in stats:
            kind = devices[0].device_kind
            raise UserError(f"{kind} does not tell how much memory it has: set training.accumulate to a number")
        return int(USABLE * stats["bytes_limit"]) - stats.get("bytes_in_use", 0) + taught
    saved = cost.total_bytes(run.abstract_state)  # a checkpoint is written from a copy
    waiting = HOST_BATCHES * sum(array.nbytes for array in batch.values())
    return max(int(USABLE_OF_HOST * free_memory()) - waiting - saved, 0) // len(devices) + taught
