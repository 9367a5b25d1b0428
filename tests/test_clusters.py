"""The job files of docs/clusters.md, as far as they can be tried without a cluster."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from experiments.train import main  # noqa: F401  (the module that the job files start)
from research.config import build, load
from research.parallel.mesh import MeshShape
from research.parallel.processes import BY_HAND
from research.training.interruptions import RESTART

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "clusters.md").read_text()


def block(language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)[1]


def check_arguments(arguments: list[str], devices: int) -> None:
    """The config exists, takes the overrides, and its mesh fits the job's devices."""
    options = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
    assert options.pop("workdir").startswith("/shared/")
    spec = options.pop("config")
    config = load(spec, {name.removeprefix("config."): value for name, value in options.items()})
    build(MeshShape, config.mesh, "mesh").sizes(devices)


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (RESTART, True)])
def test_the_slurm_script_requeues_what_asks_for_it(code, requeued, tmp_path):
    """With a stand-in for srun that notes its arguments and ends as the run would."""
    (tmp_path / "job.sh").write_text(block("sbatch"))
    (tmp_path / "srun").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\nexit {code}\n')
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/scontrol.log\n')
    for name in ("srun", "scontrol"):
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "42"}
    done = subprocess.run(["bash", tmp_path / "job.sh"], env=environment, check=False)
    assert done.returncode == code
    assert (tmp_path / "scontrol.log").exists() is requeued
    if requeued:
        assert (tmp_path / "scontrol.log").read_text() == "requeue 42\n"
    words = (tmp_path / "arguments").read_text().splitlines()
    assert words[1:4] == [".venv/bin/python", "-m", "experiments.train"]
    nodes, tasks, gpus = (
        int(re.search(rf"--{name}=(\d+)", block("sbatch"))[1]) for name in ("nodes", "ntasks-per-node", "gpus-per-node")
    )
    assert tasks == gpus  # one task for each GPU
    check_arguments(words[4:], nodes * gpus)


def test_the_kubernetes_job_starts_every_pod_as_one_process():
    service, job = yaml.safe_load_all(block("yaml"))
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    values = {variable["name"]: variable for variable in container["env"]}
    assert list(values) == list(BY_HAND)
    host = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert values["JAX_COORDINATOR_ADDRESS"]["value"].startswith(f"{host}:")
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert int(values["JAX_NUM_PROCESSES"]["value"]) == job["spec"]["completions"] == job["spec"]["parallelism"]
    (rule,) = job["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [RESTART] and pod["restartPolicy"] == "Never"
    assert container["command"] == [".venv/bin/python", "-m", "experiments.train"]
    check_arguments(container["args"], job["spec"]["completions"] * container["resources"]["limits"]["nvidia.com/gpu"])
