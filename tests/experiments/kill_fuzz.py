"""Kills a run again and again, at random moments of every phase, and compares it with one that was left alone.

python -m tests.experiments.kill_fuzz --kills=50

Every third kill waits for a save, every third for an evaluation, the others fall anywhere, the start included.
"""

import argparse
import collections
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

import tests.conftest  # noqa: F401  (the environment of the tests)
from research.runs.experiment import open_run
from research.training.checkpoints import UNFINISHED, Checkpoints
from research.training.loggers import read_metrics

ROOT = Path(__file__).resolve().parents[2]
EVALUATE_EVERY = 20
PHASES = ("save", "evaluation", "any")


def command(folder: Path, steps: int) -> list[str]:
    """A run that saves, evaluates and logs all the time."""
    return [
        *(sys.executable, "-m", "experiments.train", "--config=configs/vision/digits.py:tiny", f"--workdir={folder}"),
        *(f"--config.training.duration.steps={steps}", "--config.training.log_every=5"),
        *(f"--config.training.evaluate_every.steps={EVALUATE_EVERY}", "--config.checkpoint.every.steps=10"),
        *("--config.checkpoint.best=validation/loss", "--config.checkpoint.every_minutes=0.001"),
    ]


def phase(folder: Path, first: dict) -> str:
    """What the run is doing, as far as its folder shows; `first` is the last row from before this process."""
    if (folder / "results.json").exists():
        return "after the end"
    last = last_row(folder)
    if last == first:
        return "start"
    if last["step"] % EVALUATE_EVERY == 0 and "train/loss" in last:
        return "evaluation"
    return "save" if any((folder / "checkpoints").glob(f"*{UNFINISHED}*")) else "steps"


def last_row(folder: Path) -> dict:
    """The last whole line of the metrics, {"step": -1} before the first."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return {"step": -1}
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 4096, 0))
        lines = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
    return json.loads(lines[-1]) if lines else {"step": -1}


def kill_once(folder: Path, steps: int, wanted: str, random: np.random.Generator) -> str | None:
    """Starts or resumes the run and kills it; the phase it was in, or None where the run came to its end first."""
    first = last_row(folder)
    process = subprocess.Popen(
        command(folder, steps), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    if wanted == "any":
        time.sleep(random.uniform(0.5, 8.0))
    else:
        while process.poll() is None and last_row(folder) == first:  # also where it starts from an earlier step
            time.sleep(0.01)
        wait = last_row(folder)["step"] + int(random.integers(5, 60))
        while process.poll() is None and (last_row(folder)["step"] < wait or phase(folder, first) != wanted):
            pass
        time.sleep(random.uniform(0, 0.004))
    found = phase(folder, first)
    if process.poll() is not None:
        assert process.returncode == 0, process.stderr.read().decode()
        return None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return found


def outcome(folder: Path) -> tuple:
    """All that must be the same: final state, logged metrics, results."""
    experiment = open_run(folder)
    with Checkpoints(folder / "checkpoints", experiment.checkpoint, write=False) as checkpoints:
        step = checkpoints.steps()[-1]
        state = jax.device_get(checkpoints.restore(experiment.run.abstract_state, step)[0])
    rows = read_metrics(folder / "metrics.jsonl")
    logged = [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]
    return step, [leaf.tobytes() for leaf in jax.tree.leaves(state)], logged, (folder / "results.json").read_text()


def fuzz(folder: Path, kills: int, steps: int, seed: int = 0) -> collections.Counter[str]:
    """Returns how many kills fell into which phase. Raises AssertionError where the outcome differs."""
    random = np.random.default_rng(seed)
    phases: collections.Counter[str] = collections.Counter()
    for number in range(kills):
        found = kill_once(folder / "killed", steps, PHASES[number % 3], random)
        if found is None:
            break
        phases[found] += 1
        print(f"kill {number + 1}: {found}", flush=True)
    for name in ("whole", "killed"):
        subprocess.run(command(folder / name, steps), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    whole, killed = outcome(folder / "whole"), outcome(folder / "killed")
    assert whole[0] == killed[0] == steps
    assert whole == killed
    return phases


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=10_000, help="length of the run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        counted = fuzz(Path(temporary), arguments.kills, arguments.steps)
    print(f"{counted.total()} kills, the same bits: " + ", ".join(f"{n} in {name}" for name, n in counted.items()))
