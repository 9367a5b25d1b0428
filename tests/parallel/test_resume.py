"""A run goes on with other devices, another mesh and another number of processes than it began with."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from research.training.interruptions import RESTART
from research.training.loggers import read_metrics
from tests.parallel.test_processes import launch, losses

ROOT = Path(__file__).resolve().parents[2]
LONG = [
    "--config.training.duration.steps=40",
    "--config.training.evaluate_every.steps=20",
    "--config.training.log_every=1",
    "--config.checkpoint.every.steps=10",
]


def stopped(arguments: list[str], folder: Path, devices: int) -> int:
    """Starts training, asks it to stop after some steps, and returns the steps it had made."""
    command = [sys.executable, "-m", "experiments.train", *arguments, f"--workdir={folder}"]
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | flags, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and len(read_metrics(folder / "metrics.jsonl")) < 8:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == RESTART, stderr
    return read_metrics(folder / "metrics.jsonl")[-1]["step"]


@pytest.mark.parametrize(
    ("config", "processes", "devices", "mesh"),
    [
        ("configs/vision/digits.py:tiny", 1, 4, []),
        ("configs/vision/digits.py:tiny", 2, 2, ["--config.mesh.data=1", "--config.mesh.fsdp=4"]),
        ("configs/translation/multi30k.py:tiny", 1, 2, ["--config.mesh.data=1", "--config.mesh.tensor=2"]),
    ],
)
def test_a_run_goes_on_elsewhere(config, processes, devices, mesh, tmp_path):
    """Losses within 1e-5 of the run that stayed on its eight devices, from whichever step it went on."""
    arguments = [*LONG, "--config.model.width=64"]
    if "multi30k" in config:  # batches of a number of rows that no mesh divides
        for split in ("train", "valid", "test.2016"):
            for language in ("en", "de"):
                lines = "".join(f"{language} word{n % 7} {'x ' * (n % 9)}end\n" for n in range(60))
                (tmp_path / f"{split}.{language}").write_text(lines)
        for split, name in (("train", "train"), ("validation", "valid"), ("test", "test.2016")):
            for side, language in (("source", "en"), ("target", "de")):
                arguments.append(f"--config.data.{split}_{side}={tmp_path}/{name}.{language}")
        arguments += ["--config.model.dropout=0.1", "--config.task.beam_size=1"]
    arguments = [f"--config={config}", *arguments]
    launch(1, 8, [*arguments, f"--workdir={tmp_path / 'whole'}"])
    assert stopped(arguments, tmp_path / "moved", 8) < 40
    launch(processes, devices, [*arguments, *mesh, f"--workdir={tmp_path / 'moved'}"])
    whole, moved = losses(tmp_path / "whole"), losses(tmp_path / "moved")
    assert len(whole) == len(moved) > 40
    for row, other in zip(whole, moved, strict=True):
        assert row == pytest.approx(other, rel=1e-5, abs=1e-6)
