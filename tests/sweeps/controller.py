"""A sweep over fake trials: `python -m tests.sweeps.controller FOLDER WORKERS [local|ray]`."""

import sys
from pathlib import Path

import tests.conftest  # noqa: F401  (the environment of the tests)
from research.search_space import choice
from research.sweeps.launchers import LocalLauncher
from research.sweeps.plan import Plan
from research.sweeps.results import write_results
from research.sweeps.study import Study
from research.sweeps.worker import work

DIGITS = "configs/vision/digits.py:tiny"
FAKE = (sys.executable, str(Path(__file__).with_name("fake_trial.py")))
RATES = tuple(index / 100 for index in range(1, 9))


def plan(rates=RATES, wrong=(0.0,), **changes) -> Plan:
    """Learning rates from bad to good, so that a pruner finds nothing to prune until the good ones are in."""
    space = {"optimizer.learning_rate": choice(rates), "task.label_smoothing": choice(wrong)}
    return Plan(DIGITS, {}, space, **{"objective": "validation/loss", "direction": "minimize", **changes})


def launch(folder: Path, workers: int, launcher: str = "local", *_: str) -> None:
    """Works on the sweep until nothing is left to take."""
    if launcher == "ray":
        from research.sweeps.ray_launcher import RayLauncher

        where = RayLauncher(workers, cpus=1, gpus=0)
    else:
        where = LocalLauncher(workers)
    with Study(folder, plan()) as study:
        print("ready", flush=True)
        work(study, where, lambda trial: print(f"ended {trial.number}", flush=True), FAKE)
        write_results(study)


if __name__ == "__main__":
    launch(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
