"""Two processes with four devices each, against one with eight."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from research.errors import UserError
from research.parallel.processes import BY_HAND, in_cluster, start_processes
from research.training.interruptions import RESTART
from research.training.loggers import read_metrics

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(processes: int, devices: int, arguments: list[str]) -> list[str]:
    """Runs experiments.train as so many processes; returns what each printed."""
    started = start(processes, devices, arguments)
    printed = [process.communicate(timeout=400) for process in started]
    assert [process.returncode for process in started] == [0] * processes, printed
    return [stdout for stdout, _ in printed]


def start(processes: int, devices: int, arguments: list[str]) -> list[subprocess.Popen]:
    """Starts experiments.train as so many processes."""
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    address = f"127.0.0.1:{free_port()}"
    started = []
    for index in range(processes):
        job = dict(zip(BY_HAND, (address, str(processes), str(index)), strict=True)) if processes > 1 else {}
        command = [sys.executable, "-m", "experiments.train", *arguments]
        environment = os.environ | flags | job
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
    return started


def losses(folder: Path) -> list[dict[str, float]]:
    rows = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


@pytest.mark.parametrize(
    ("config", "mesh"),
    [
        ("configs/vision/digits.py:tiny", {}),
        ("configs/language/shakespeare.py:tiny", {"data": 1, "fsdp": 4, "tensor": 2}),
    ],
)
def test_two_processes_train_as_one(config, mesh, tmp_path):
    """Same losses, hence the same examples in each global batch; files written once; process 0 alone speaks."""
    arguments = [f"--config={config}", *(f"--config.mesh.{axis}={size}" for axis, size in mesh.items())]
    arguments += ["--config.model.width=64"]
    if "shakespeare" in config:
        (tmp_path / "text.txt").write_text("To be, or not to be, that is the question:\n" * 40)
        arguments += [f"--config.data.path={tmp_path / 'text.txt'}"]
    launch(1, 8, [*arguments, f"--workdir={tmp_path / 'one'}"])
    first, second = launch(2, 4, [*arguments, f"--workdir={tmp_path / 'two'}"])
    assert "on 8 x" in first and "steps of" not in second
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) > 3
    for row, other in zip(one, two, strict=True):
        assert row == pytest.approx(other, rel=1e-5)
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")]
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    assert json.loads((tmp_path / "two" / "manifest.json").read_text())["starts"][0]["processes"] == 2
    if "digits" in config:
        again = [*arguments, f"--workdir={tmp_path / 'two'}"]
        assert "this run is complete" in launch(2, 4, again)[0]
        launch(2, 4, [*again, "--config.training.duration.steps=8"])  # trained on, by both
        assert losses(tmp_path / "two")[-1]["step"] == 8


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "n[1-2]"}, True),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "n1"}, False),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, False),  # in the batch script, not under srun
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
    ],
)
def test_jobs_of_several_processes_are_recognised(environment, expected):
    assert in_cluster(environment) is expected


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (("host:1", "2", None), "JAX_NUM_PROCESSES is set but JAX_PROCESS_ID is not: set all three or none"),
        (("host:1", "2", "2"), "JAX_PROCESS_ID 2 and JAX_NUM_PROCESSES 2 are not a place in a job"),
    ],
)
def test_a_contradictory_environment_is_refused(values, sentence, monkeypatch):
    for name, value in zip(BY_HAND, values, strict=True):
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=sentence):
        start_processes()


def test_a_signal_to_one_process_stops_all_at_one_saved_step(tmp_path):
    """As a cluster's preemption notice does; the other process hears of it through JAX."""
    long = ["--config.training.duration.steps=100000", "--config.training.log_every=5"]
    started = start(2, 1, ["--config=configs/vision/digits.py:tiny", f"--workdir={tmp_path / 'run'}", *long])
    while all(process.poll() is None for process in started) and not read_metrics(tmp_path / "run" / "metrics.jsonl"):
        time.sleep(0.1)
    started[1].send_signal(signal.SIGTERM)
    last = [process.communicate(timeout=200)[1].splitlines()[-1] for process in started]
    assert [process.returncode for process in started] == [RESTART, RESTART], last
    assert last[0] == last[1] and last[0].startswith("stopped by SIGTERM at step ")
    step = last[0].split("step ")[1].split()[0]
    assert step in {folder.name for folder in (tmp_path / "run" / "checkpoints").iterdir()}
