"""What an experiment needs before it is paid for: devices, memory, where parameters lie, time."""

import importlib.metadata
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from research.analysis import cost
from research.errors import UserError
from research.parallel.mesh import AXES, batch_sharding, batch_ways
from research.runs.experiment import build_experiment
from research.training.fitting import USABLE, dearest_batch
from research.training.run import Run

MOST = 64
"""How many times today's batch the largest batch is looked for."""


def parse_mesh(text: str) -> dict[str, int]:
    """Devices along each axis, from "8x4" or "fsdp=8,tensor=4". Raises UserError for anything else."""
    if "=" in text:
        pairs = [part.partition("=")[::2] for part in text.split(",")]
    else:
        pairs = list(zip((*AXES, *[""] * len(text)), text.split("x"), strict=False))
    if any(axis not in AXES or not size.isdecimal() or int(size) < 1 for axis, size in pairs):
        raise UserError(f"--mesh {text!r} is not a mesh: write sizes such as 8x4 (data x fsdp) or fsdp=8,tensor=4")
    return dict.fromkeys(AXES, 1) | {axis: int(size) for axis, size in pairs}


def diagnose(config: ConfigDict, folder: Path, *, memory: float | None, imagined: bool, seconds: float) -> None:
    """Prints the report, section by section.

    memory: of a device, in GiB, where it is not the one at hand. imagined: the devices are, so that nothing is timed.
    seconds: how long steps are timed otherwise.
    """
    experiment = build_experiment(config, folder)
    run = experiment.run
    available = _devices(memory, imagined)
    state = run.abstract_state
    _title("Model")
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    print(f"{experiment.config.model.name}: {parameters:,} parameters, {_bytes(cost.total_bytes(state.params))}")
    held, whole = cost.bytes_per_device(state), cost.total_bytes(state)
    print(f"with the optimizer's state {_bytes(whole)}, of which each device holds {_bytes(held)} ({held / whole:.1%})")
    batch = dearest_batch(run)
    rows = len(batch["weight"]) * run.batches.share[1]
    abstract = cost.abstract_batch(batch, batch_sharding(run.mesh), rows)
    compiled = run.compile_step(abstract)
    _step(run, compiled, abstract)
    _memory(run, compiled, batch, rows, available, experiment.options.micro_batches)
    _sharding(run, abstract)
    if run.mesh.size > 1:
        _title("Communication of a step, bytes of one device")
        for kind, (number, size) in cost.collectives(compiled.as_text() or "").items():
            print(f"{kind:20} x{number:<4} {_bytes(size)}")
    if not imagined:
        _time(run, seconds)


def _devices(memory: float | None, imagined: bool) -> float:
    """Prints them and returns the bytes of one device's memory."""
    _title("Devices")
    devices = jax.devices()
    stats = devices[0].memory_stats() or {}
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 if imagined else len(devices))
    available = memory * 2**30 if memory else stats.get("bytes_limit", machine)
    assumed = ", compiled on this CPU" if imagined else ""
    processes = f"{jax.process_count()} process(es)"
    print(f"{len(devices)} x {devices[0].device_kind}, {_bytes(available)} each{assumed}; {processes}")
    versions = {
        name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
    }
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    return available


def _step(run: Run, compiled: jax.stages.Compiled, batch: Mapping[str, jax.ShapeDtypeStruct]) -> None:
    _title("Step")
    for name, array in batch.items():
        part = array.sharding.shard_shape(array.shape)
        print(f"{name}: {array.dtype} {list(array.shape)}, {list(part)} on each device")
    with jax.set_mesh(run.mesh):
        operations = cost.flops(run.step.train, run.abstract_state, batch, run.taught)
    print(f"{operations:.3e} FLOPs (products and convolutions), {operations / run.mesh.size:.3e} for each device")
    analysis = compiled.cost_analysis() or {}
    if "bytes accessed" in analysis:
        print(f"{_bytes(analysis['bytes accessed'])} read and written by each device")


def _memory(run: Run, compiled: Any, batch: Mapping, rows: int, available: float, accumulate: int) -> None:
    _title("Memory of each device, as compiled")
    needed = cost.memory(compiled)
    print(f"arguments {_bytes(needed.arguments)}, outputs {_bytes(needed.outputs)}, "
          f"temporaries {_bytes(needed.temporaries)}: {_bytes(needed.total)} of {_bytes(available)}")  # fmt: skip

    def needed_with(count: int) -> int:
        return cost.memory(run.compile_step(cost.abstract_batch(batch, batch_sharding(run.mesh), count))).total

    multiple = batch_ways(run.mesh) * accumulate
    most = MOST * rows
    largest = cost.largest_batch(needed_with, int(USABLE * available), rows=rows, multiple=multiple, most=most)
    positions = max((array.shape[1] for array in batch.values() if array.ndim == 2), default=0)
    tokens = f" ({largest * positions:,} positions)" if run.options.batch_tokens else ""
    if largest >= most // multiple * multiple:
        print(f"more than {largest} examples{tokens} a step fit")
    elif largest:
        print(f"the largest batch that fits: {largest} examples{tokens}; this experiment's has {rows}")
    else:
        print("no batch fits: split the state (mesh.fsdp), recompute (model.remat) or use a smaller model")


def _sharding(run: Run, batch: Mapping[str, Any]) -> None:
    _title("Parameters and where they are")
    groups = cost.parameter_groups(run.abstract_state.params)
    width = max(len(group.path) for group in groups)
    for group in groups:
        axes = [" x ".join(axis) if isinstance(axis, tuple) else axis or "-" for axis in group.spec]
        print(f"{group.path:{width}}  {list(group.shape)!s:18} x{group.count:<3} ({', '.join(axes)})  "
              f"{_bytes(group.bytes)}, {_bytes(group.bytes_per_device)} a device")  # fmt: skip
    if run.mesh.size > 1:
        whole = sum(group.bytes for group in groups if group.bytes == group.bytes_per_device)
        print(f"{whole / sum(group.bytes for group in groups):.2%} of the bytes are whole on every device")


def _time(run: Run, seconds: float) -> None:
    _title("Time")
    state, durations = run.create_state(), []
    compiled: dict[tuple, jax.stages.Compiled] = {}
    began = time.perf_counter()
    for step in range(len(run.batches)):
        batch = run.place(run.batches[step])
        shape = tuple((name, array.shape) for name, array in batch.items())
        fresh = shape not in compiled
        if fresh:
            compiled[shape] = run.compile_step(batch)
        started = time.perf_counter()
        state, metrics = compiled[shape](state, batch, run.taught)
        jax.block_until_ready(metrics)
        if not fresh:
            durations.append(time.perf_counter() - started)
        if time.perf_counter() - began > seconds and durations:
            break
    mean = float(np.mean(durations)) if durations else math.nan
    total = len(run.batches)
    print(
        f"{mean:.3g} s a step (mean of {len(durations)}): {_clock(mean * total)} for {total} steps, without evaluation"
    )


def _title(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}")


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.4g} {unit}"
        number /= 1000
    raise AssertionError


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "unknown"
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
