"""Losses and gradients of every model, small and in float32, on the accelerator against those of this machine's CPU.

The CPU's come from a process of its own: what a program is made of depends on the device that it is traced for.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np

from benchmarks.accelerator.common import Figures, fail_without_accelerator
from tests.parallel.mesh_parity import CASES, build, compute, deviation, random_state

FEW = ("gpt", "vit")
"""With --tiny."""
THREADS = 8
TOLERANCE = 1e-3
"""Of the loss, and of each parameter's gradient relative to its norm: float32 sums in another order."""


def computed(name: str, folder: Path) -> dict[str, np.ndarray]:
    """The loss and the gradients of a model's first batch, the latter by their number."""
    folder.mkdir()
    run = build(name, {"data": 1}, folder)
    with jax.set_mesh(run.mesh):
        loss, found = compute(run, *random_state(run.create_state()), run.place(run.batches[0]))
    leaves = jax.tree.leaves(found["gradients"])
    return {"loss": np.float32(loss)} | {str(number): leaf for number, leaf in enumerate(leaves)}


def all_computed(names: Sequence[str], folder: Path) -> Iterator[tuple[str, Future]]:
    """`computed` of each, several being compiled at a time."""
    with ThreadPoolExecutor(THREADS) as pool:
        jobs = [pool.submit(computed, name, folder / name) for name in names]
        yield from zip(names, jobs, strict=True)


def main() -> None:
    """The part or, with --save, its other side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--torch-python", help="not used here")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    names = FEW if arguments.tiny else tuple(CASES)
    jax.config.update("jax_default_matmul_precision", "highest")
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.save:
            for name, job in all_computed(names, Path(scratch)):
                np.savez(arguments.output / f"{name}.npz", **job.result())
            return
        fail_without_accelerator(arguments.tiny)
        saved = Path(scratch) / "cpu"
        saved.mkdir()
        command = [sys.executable, "-m", "benchmarks.accelerator.parity", "--save", f"--output={saved}"]
        command += ["--tiny"] if arguments.tiny else []
        other = subprocess.Popen(command, env=os.environ | {"JAX_PLATFORMS": "cpu"})
        figures = Figures(arguments.output)
        ours = {}
        for name, job in all_computed(names, Path(scratch)):
            with figures.row(name):
                ours[name] = job.result()
        if other.wait():
            sys.exit(f"error: the CPU's side ended with {other.returncode}")
        for name, mine in ours.items():
            with figures.row(name) as row, np.load(saved / f"{name}.npz") as arrays:
                theirs = dict(arrays)
                row.update(loss=float(mine.pop("loss")), loss_on_cpu=float(theirs.pop("loss")))
                row["gradients"] = deviation(mine, theirs)
                row["within"] = max(row["gradients"], abs(row["loss"] / row["loss_on_cpu"] - 1)) < TOLERANCE
        if apart := [name for name, row in figures.found["rows"].items() if not row.get("within")]:
            sys.exit(f"error: {', '.join(apart)}: not the numbers of the CPU")


if __name__ == "__main__":
    main()
