"""Signals, kills and hung readers, as a user meets them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from research.locks import try_lock
from research.training.interruptions import RESTART
from research.training.loggers import read_metrics
from tests.experiments.kill_fuzz import fuzz
from tests.experiments.test_commands import DIGITS, final_state, logged

ROOT = Path(__file__).resolve().parents[2]
LONG = ["--config.training.duration.steps=40", "--config.training.log_every=1"]


def test_kills_in_every_phase_change_nothing(tmp_path):
    assert set(fuzz(tmp_path, kills=3, steps=200)) <= {"start", "steps", "save", "evaluation", "after the end"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_with_the_code_to_restart(number, run, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run("train", f"--config={DIGITS}", f"--workdir={whole}", *LONG).code == 0
    command = [sys.executable, "-m", "experiments.train", f"--config={DIGITS}", f"--workdir={stopped}", *LONG]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and len(read_metrics(stopped / "metrics.jsonl")) < 6:
        time.sleep(0.005)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == RESTART == 75, stderr
    *_, last = stderr.splitlines()
    assert last.startswith(f"stopped by {number.name} at step ") and last.endswith("the same command resumes")
    step = int(last.split("step ")[1].split()[0])
    assert max(int(folder.name) for folder in (stopped / "checkpoints").iterdir()) == step < 40
    assert run("train", f"--config={DIGITS}", f"--workdir={stopped}", *LONG).code == 0
    assert logged(whole) == logged(stopped)
    assert (whole / "results.json").read_text() == (stopped / "results.json").read_text()
    jax.tree.map(np.testing.assert_array_equal, final_state(whole), final_state(stopped))


def test_a_signal_before_the_first_step_ends_with_the_code_to_restart(tmp_path):
    command = [sys.executable, "-m", "experiments.train", f"--config={DIGITS}", f"--workdir={tmp_path / 'run'}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / "run" / "config.json").exists():
        time.sleep(0.001)
    time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == RESTART, stderr
    assert "Traceback" not in stderr and "stopped by SIGTERM" in stderr.splitlines()[-1]


def test_a_killed_run_leaves_no_data_worker_behind(tmp_path):
    extra = ["--config.training.workers=2", "--config.training.duration.steps=100000"]
    command = [sys.executable, "-m", "experiments.train", f"--config={DIGITS}", f"--workdir={tmp_path / 'run'}", *extra]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not read_metrics(tmp_path / "run" / "metrics.jsonl"):
        time.sleep(0.05)
    children = _children(process.pid)
    assert len(children) >= 2
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with try_lock(tmp_path / "run" / ".lock") as lock:  # the children did not inherit it
        assert lock
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def _children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found
