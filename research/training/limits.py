"""What a run needs of memory at least, against what there is: refused before the first step, not by the system."""

import contextlib
import dataclasses
import math
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from research.analysis.cost import bytes_per_device, kept_products
from research.data.plans import Bucketed
from research.errors import UserError
from research.parallel.mesh import batch_ways
from research.parallel.sharding import by_path
from research.training.run import Run

CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)
"""Of either version of control groups, the files of its limit, of what it has taken, and of what that is."""
HOST_BATCHES = 4
"""Batches that the host holds at once: one being read, two read ahead, one on its way to the devices."""
ROW = 24
"""Bytes of a row's index, epoch and weight in a plan."""


def check_memory(run: Run, sample_batch: Mapping[str, np.ndarray]) -> None:
    """Raises UserError where the run's state or its batches certainly do not fit, and names the field to change.

    sample_batch: a batch of one row. Counted is what cannot be done without: the state and the gradients, the batches
    on the host and, of the activations, the results of matrix products that the backward pass needs.
    """
    devices = run.mesh.local_devices
    shared = devices[0].platform == "cpu"  # the devices' memory is the host's
    host = machine_memory()
    device = host // len(devices) if shared else (devices[0].memory_stats() or {}).get("bytes_limit", 2**63)
    state = bytes_per_device(run.abstract_state) + bytes_per_device(run.abstract_state.params)
    if state > device:
        raise UserError(_too_large(run, state, device))
    rows, scale = _largest_batch(run, sample_batch)
    row = scale * sum(array.nbytes for array in sample_batch.values()) + ROW
    kept = scale * kept_products(run.evaluator.inference.evaluate, *_one_row(run, sample_batch))
    on_device = (row + kept / run.options.micro_batches) / batch_ways(run.mesh)
    on_host = HOST_BATCHES * row / run.batches.share[1] + (on_device * len(devices) if shared else 0)
    room = host - state * len(devices) if shared else host
    fitting = int(min(room / on_host, (device - state) / on_device))
    if rows > fitting:
        raise UserError(_too_many(run, rows, fitting, max(rows * on_host, rows * on_device)))


def machine_memory() -> int:
    """Bytes of memory of this machine, or what its control group or the shell (`ulimit`) leaves of it."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    limited = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    found += [limit for limit in limited if limit != resource.RLIM_INFINITY]
    for path, *_ in CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # another system, or the word "max"
            found.append(int(Path(path).read_text()))
    return min(found)


def free_memory() -> int:
    """Bytes that this process may still take of what `machine_memory` counts, with other processes as they are now."""
    taken = _kibibytes(Path("/proc/self/status"))
    found = [machine_memory() - 1024 * taken.get("VmRSS", 0)]
    for limit, used, stats in CGROUPS:  # which may hold other processes; what they read from files makes room
        with contextlib.suppress(OSError, ValueError):
            rows = dict(line.split() for line in Path(stats).read_text().splitlines())
            files = int(rows.get("inactive_file", rows.get("total_inactive_file", 0)))
            found.append(int(Path(limit).read_text()) - int(Path(used).read_text()) + files)
    for kind, counted in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        if (limit := resource.getrlimit(kind)[0]) != resource.RLIM_INFINITY:
            found.append(limit - 1024 * taken.get(counted, 0))
    found += [1024 * size for name, size in _kibibytes(Path("/proc/meminfo")).items() if name == "MemAvailable"]
    return max(min(found), 0)


def peak_memory() -> dict[str, int]:
    """The most bytes that this process, and its first device where that keeps count, have held so far."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    return peaks | ({"device": statistics["peak_bytes_in_use"]} if "peak_bytes_in_use" in statistics else {})


def _kibibytes(path: Path) -> dict[str, int]:
    """The sizes in a file of the Linux kernel; none on another system."""
    with contextlib.suppress(OSError):
        rows = [line.partition(":")[::2] for line in path.read_text().splitlines() if line.endswith(" kB")]
        return {name: int(value.removesuffix("kB")) for name, value in rows}
    return {}


def _largest_batch(run: Run, sample_batch: Mapping[str, np.ndarray]) -> tuple[int, float]:
    """Rows of the largest batch, padding included, and how much longer than the sample's each of them is."""
    plan: Any = run.batches.plan
    multiple = run.batches.multiple
    if not isinstance(plan, Bucketed):
        return -(-plan.batch_size // multiple) * multiple, 1.0
    axes = np.size(plan.buckets[0].length)
    slots = max(math.prod(array.shape[1 : 1 + axes]) for array in sample_batch.values() if array.ndim > axes)
    sizes = [(-(-bucket.batch_size // multiple) * multiple, bucket.slots / slots) for bucket in plan.buckets]
    return max(sizes, key=lambda size: size[0] * size[1])


def _one_row(run: Run, sample_batch: Mapping[str, np.ndarray]) -> tuple[Any, Any]:
    variables = jax.eval_shape(lambda state: state.variables(), run.abstract_state)
    return variables, {**sample_batch, "weight": np.ones(1, np.float32)}


def _too_large(run: Run, state: int, device: int) -> str:
    path, array = max(by_path(run.abstract_state.params).items(), key=lambda item: item[1].size)
    model = run.step.model
    numbers = {
        field.name: value
        for field in dataclasses.fields(model)
        if isinstance(value := getattr(model, field.name), int) and not isinstance(value, bool)
    }
    causes = [name for name, value in numbers.items() if value > 1 and value in array.shape]
    largest = sorted(numbers, key=lambda name: numbers[name])[-1:]
    names = ", ".join(f"model.{name}" for name in causes or largest) or "model"
    names = names.replace("model.vocab_size", "task.tokenizer.vocab_size")
    return (
        f"the parameters, their gradients and the optimizer's state need {as_text(state)} of a device's "
        f"{as_text(device)} (the largest array is {path} {list(array.shape)}): use a smaller {names}"
    )


def _too_many(run: Run, rows: int, fitting: int, needed: float) -> str:
    options, parts = run.options, batch_ways(run.mesh) * run.options.micro_batches
    memory = f"{as_text(needed)} of memory and more"
    if fitting < parts:
        smaller = "training.accumulate or " if options.micro_batches > 1 else ""
        return f"a batch of {rows:,} rows needs {memory}: use a smaller {smaller}model, image size or length"
    if options.batch_size is not None:
        most = fitting // parts * parts
        return f"training.batch_size {options.batch_size} needs {memory}: use at most {most:,}"
    most = max((options.batch_tokens or 0) * fitting // rows, 1)
    return f"training.batch_tokens {options.batch_tokens} needs {memory}: use at most {most:,}"


def as_text(number: float) -> str:
    """Bytes in the largest unit of which there is one."""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if number < 1024 or unit == "TiB":
            break
        number /= 1024
    return f"{number:,.1f} {unit}"
