"""A proof that an experiment resumes: killed again and again, it gives the same bits as when it is left alone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research.errors import UserError
from research.runs.experiment import open_run
from research.training.checkpoints import Checkpoints

STEPS_BETWEEN = 3
"""From one kill to the next."""
PATIENCE = 600
"""Seconds to wait for a step."""


def prove_resume(command: Sequence[str], checkpoint: Mapping[str, Any], folder: Path, kills: int) -> str:
    """Runs a training command alone and killed, in a scratch folder; says that no step differs.

    command: arguments of `train` without a --workdir. checkpoint: that section of their config. Both save at every
    step, for STEPS_BETWEEN steps a kill; each kill -9 comes when a checkpoint has just appeared. Raises UserError with
    the first step and array that differ.
    """
    steps = STEPS_BETWEEN * (kills + 1)
    kept = max(steps, checkpoint.get("average") or 0)
    every_step = {**checkpoint, "every": {"steps": 1}, "keep": kept}
    arguments = [
        *command,
        f"--config.training.duration={{'steps': {steps}}}",
        f"--config.checkpoint={json.dumps(every_step)}",
        "--config.training.log_every=1",
    ]
    whole, killed = folder / "whole", folder / "killed"
    _run([*arguments, f"--workdir={whole}"])
    for number in range(1, kills + 1):
        _kill_at([*arguments, f"--workdir={killed}"], killed / "checkpoints", STEPS_BETWEEN * number)
        print(f"kill {number} of {kills}", flush=True)
    _run([*arguments, f"--workdir={killed}"])
    expected, found = _contents(whole), _contents(killed)
    for step in sorted(expected):
        for path, array in expected[step].items():
            if found.get(step, {}).get(path) != array:
                raise UserError(
                    f"{path} differs after step {step} between a run that was killed {kills} times and one that was "
                    "left alone: look for what its model, task or data draw without the step's own random key"
                )
    _check_equal(whole, killed)
    return f"no step and no array differs: {steps} steps, {kills} kills"


def _check_equal(whole: Path, killed: Path) -> None:
    """Raises UserError where the results differ."""
    first, second = (json.loads((folder / "results.json").read_text(encoding="utf-8")) for folder in (whole, killed))
    for name in first:
        if first[name] != second.get(name):
            raise UserError(f"{name} is {first[name]} left alone and {second.get(name)} killed: look at its evaluation")


def _start(arguments: Sequence[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments.train", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
    )


def _run(arguments: Sequence[str]) -> None:
    process = _start(arguments)
    _, errors = process.communicate()
    _check_ended(process, errors)


def _check_ended(process: subprocess.Popen, errors: str) -> None:
    if process.returncode:
        last = errors.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        raise UserError(f"the run itself does not end well ({last[0][:300]}): correct that first")


def _kill_at(arguments: Sequence[str], checkpoints: Path, step: int) -> None:
    """Starts or resumes a run and kills it once the checkpoint of a step is there."""
    process = _start(arguments)
    end = time.monotonic() + PATIENCE
    while process.poll() is None and not (checkpoints / str(step)).exists():
        if time.monotonic() > end:
            os.killpg(process.pid, signal.SIGKILL)
            raise UserError(f"step {step} has not come for {PATIENCE} s: use a smaller model for the proof")
        time.sleep(0.005)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    _, errors = process.communicate()
    if process.returncode != -signal.SIGKILL:
        _check_ended(process, errors)


def _contents(folder: Path) -> dict[int, dict[str, Any]]:
    """Of each saved step, the shape and the sum of bits of each array."""
    with Checkpoints(folder / "checkpoints", open_run(folder).checkpoint, write=False) as checkpoints:
        return {step: checkpoints.contents(step) for step in checkpoints.steps()}
