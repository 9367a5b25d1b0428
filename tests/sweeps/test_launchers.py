"""Where trials run: cores and accelerators of a machine, a Ray cluster that loses a node, an array of jobs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.sweep import _shared
from research.errors import UserError
from research.sweeps import launchers
from research.sweeps.launchers import LocalLauncher, Process, share
from tests.sweeps.test_worker import check_complete, controller, starts, wait_for

ROOT = Path(__file__).resolve().parents[2]


def test_slots_share_what_there_is():
    assert [share(range(8), slot, 3) for slot in range(3)] == [range(0, 2), range(2, 5), range(5, 8)]
    assert [list(share([4, 7], slot, 3)) for slot in range(3)] == [[4], [7], [4]]


def test_a_trial_has_its_cores_and_xla_no_more_threads_than_they_are(tmp_path):
    code = "import os, jax; jax.jit(lambda x: x @ x)(jax.numpy.ones((400, 400))).block_until_ready();"
    code += "names = [open(f'/proc/self/task/{t}/comm').read() for t in os.listdir('/proc/self/task')];"
    code += "print(sorted(os.sched_getaffinity(0)), sum('XLAEigen' in name for name in names))"
    core = max(os.sched_getaffinity(0))
    process = Process([sys.executable, "-c", code], tmp_path / "log", [core], {"JAX_PLATFORMS": "cpu"})
    wait_for(lambda: process.poll() is not None)
    assert (tmp_path / "log").read_text().split("\n")[0].startswith(f"[{core}] ")
    assert int((tmp_path / "log").read_text().split()[-1]) <= 1


def test_each_slot_has_its_accelerators(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(launchers, "Process", lambda command, log, allowed, environment: seen.append(environment))
    monkeypatch.setattr(launchers, "accelerators", lambda: ("CUDA_VISIBLE_DEVICES", ["2", "3", "5", "7"]))
    assert LocalLauncher(0).slots == 4
    for slots in (4, 2):
        for slot in range(slots):
            LocalLauncher(slots).start([], tmp_path, slot)
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in seen] == ["2", "3", "5", "7", "2,3", "5,7"]
    with pytest.raises(UserError, match="--workers=5 needs as many accelerators, and here are 4"):
        LocalLauncher(5)
    monkeypatch.setattr(launchers, "accelerators", lambda: ("TPU_VISIBLE_CHIPS", ["0", "1"]))
    LocalLauncher(2).start([], tmp_path, 1)
    assert seen[-1]["TPU_VISIBLE_CHIPS"] == "1" and seen[-1]["TPU_PROCESS_BOUNDS"] == "1,1,1"
    with pytest.raises(UserError, match="--workers=-1"):
        LocalLauncher(-1)


def test_accelerators_are_found_without_touching_them(monkeypatch):
    monkeypatch.setattr(launchers.importlib.util, "find_spec", lambda name: name == "jax_cuda13_plugin" or None)
    for platforms, visible, expected in (("cpu", "0,1", []), ("", "0,1", ["0", "1"]), ("cuda", "", [])):
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        launchers.accelerators.cache_clear()
        assert launchers.accelerators()[1] == expected
    launchers.accelerators.cache_clear()


def test_a_trial_starts_only_when_its_last_process_is_gone(tmp_path):
    def trial(text):
        code = f"import time; print('{text} on', flush=True); time.sleep(0.5); print('{text} off')"
        return Process([sys.executable, "-c", code], tmp_path / "log", [0], {})

    first = trial("first")
    wait_for(lambda: (tmp_path / "log").exists() and "first on" in (tmp_path / "log").read_text())
    second = trial("second")
    wait_for(lambda: second.poll() is not None)
    assert first.poll() == second.poll() == 0
    assert (tmp_path / "log").read_text().split("\n")[:4] == ["first on", "first off", "second on", "second off"]


def test_a_missing_extra_is_named(monkeypatch):
    for extra, module in (("ray", "ray_launcher"), ("slurm", "slurm_launcher")):
        monkeypatch.delitem(sys.modules, f"research.sweeps.{module}", raising=False)
        monkeypatch.setitem(sys.modules, {"ray": "ray", "slurm": "submitit"}[extra], None)
        with pytest.raises(UserError, match=f"--extra {extra}"):
            __import__(f"research.sweeps.{module}")


def test_trials_of_a_lost_ray_node_go_on_elsewhere(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_DISABLE_IMPORT_WARNING", "1")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    try:
        process = controller(tmp_path, workers=2, launcher="ray", seconds="0.3")
        wait_for(lambda: len(list(tmp_path.glob("trials/*/metrics.jsonl"))) >= 3, 120)
        cluster.remove_node(node, allow_graceful=False)
        assert process.wait(180) == 0
    finally:
        cluster.shutdown()
    check_complete(tmp_path)
    assert sum(starts(tmp_path)) in (8, 9)


def test_jobs_of_an_array_join_the_sweep(tmp_path):
    pytest.importorskip("submitit")
    fake = (sys.executable, "-m", "tests.sweeps.controller")
    code = (
        "from pathlib import Path; from research.sweeps import slurm_launcher\n"
        f"slurm_launcher.SWEEP = {fake!r}\n"
        f"slurm_launcher.submit([{str(tmp_path)!r}, '1'], Path({str(tmp_path)!r}), 2, 1, 0, lambda: None, 'local')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    check_complete(tmp_path)
    assert starts(tmp_path) == [1] * 8 and len(list((tmp_path / "jobs").glob("*/*.out"))) == 2


def test_jobs_take_the_options_of_the_command_that_are_theirs():
    given = ["--launcher=slurm", "--config=a.py", "--workers", "4", "--sweep.seed=0,1", "--gpus=1", "--trials", "8"]
    assert _shared(given) == ["--config=a.py", "--sweep.seed=0,1", "--trials", "8"]


def test_a_preempted_job_saves_its_trial_before_it_is_queued_again(tmp_path):
    pytest.importorskip("submitit")
    from research.sweeps.slurm_launcher import Worker

    worker = Worker([])
    code = "import signal, sys, time; save = lambda *_: (time.sleep(0.3), open('saved', 'w'), sys.exit(75));"
    code += " signal.signal(signal.SIGTERM, save);"
    worker.command = [
        sys.executable,
        "-c",
        f"import os; os.chdir({str(tmp_path)!r}); {code} open('on', 'w'); time.sleep(60)",
    ]
    worker.process = subprocess.Popen(worker.command)
    wait_for((tmp_path / "on").exists)
    delayed = worker.checkpoint()
    assert (tmp_path / "saved").exists() and delayed.function is worker and worker.process is None
    worker.command = [sys.executable, "-c", "raise SystemExit(2)"]
    with pytest.raises(RuntimeError, match="exit code 2"):
        worker()


def test_a_trial_on_ray_needs_a_cpu():
    pytest.importorskip("ray")
    from research.sweeps.ray_launcher import RayLauncher

    with pytest.raises(UserError, match="--cpus=0"):
        RayLauncher(1, cpus=0, gpus=0)
