"""Meshes that do not fit and folders that are taken: one sentence with the values that would work."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DIGITS = "configs/vision/digits.py:tiny"
EIGHT = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["mesh.data=3"], "the mesh data 3 does not fit 8 devices: use mesh.data -1 or 8"),
        (["mesh.tensor=8"], "mesh.tensor 8 does not divide num_heads 2 of encoder/layer_0/self_attention"),
        (
            ["mesh.data=1", "mesh.fsdp=8", "training.batch_size=12"],
            "12 is not divisible by the 8-way data axis: use 8 or 16",
        ),
        (["mesh.rules={'colonel': []}"], "mesh.rules 'colonel' matches no parameter"),
        (["mesh.rules={'kernel$': ['width']}"], "names the axis 'width': use data, fsdp, tensor, sequence or None"),
        (["mesh.data=-1", "mesh.fsdp=-1"], "mesh.data and mesh.fsdp are both -1"),
        (
            ["mesh.fsdp=8", "mesh.data=1", "model.width=12", "model.num_heads=3", "model.mlp_width=12"],
            "would stay whole",
        ),
    ],
)
def test_meshes(settings, words, run, tmp_path):
    overrides = [f"--config.{setting}" for setting in settings]
    code, _, stderr = run("train", f"--config={DIGITS}", f"--workdir={tmp_path / 'run'}", *overrides, **EIGHT)
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1 and words in lines[0], stderr
    assert "Traceback" not in stderr


def test_a_second_process_in_the_same_folder_is_refused(run, tmp_path):
    """While the first lives; once it is killed the folder is free again."""
    arguments = [f"--config={DIGITS}", f"--workdir={tmp_path / 'run'}", "--config.training.duration.steps=4000"]
    first = subprocess.Popen(
        [sys.executable, "-m", "experiments.train", *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = tmp_path / "run" / "metrics.jsonl"
    while first.poll() is None and not (log.exists() and log.stat().st_size):  # a run that has begun
        time.sleep(0.05)
    code, _, stderr = run("train", *arguments)
    assert code == 2 and f"is being written by another process (process {first.pid} on" in stderr
    first.kill()
    first.wait()
    shorter = [*arguments[:2], "--config.training.duration.steps=6"]
    code, _, stderr = run("train", *shorter)
    assert code == 2 and "use more to train on, or another --workdir" in stderr  # not: is being written
