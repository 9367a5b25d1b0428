"""Trials that are trained together end as if each had been alone."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from optuna.trial import TrialState

from research.errors import UserError
from research.parallel.sharding import by_path
from research.runs.experiment import open_run
from research.search_space import choice
from research.sweeps.plan import Plan
from research.sweeps.study import Study
from research.sweeps.vectorized import work_together
from research.training.checkpoints import Checkpoints
from research.training.evaluation import Evaluator
from research.training.loggers import read_metrics
from research.training.vectorized import Number

ROOT = Path(__file__).parents[2]
CLIPPED = {"optimizer__clip_norm": "0.5", "optimizer__weight_decay": "0.3"}
SGD = {"optimizer": "{'name': 'sgd', 'learning_rate': 0.01}"}
DIGITS = "configs/vision/digits.py:tiny"


def sweep(folder: Path, swept: dict[str, list], spec: str = DIGITS, pruner: str = "none", **given: str) -> Study:
    given = {path.replace("__", "."): value for path, value in given.items()}
    plan = Plan(
        spec,
        given,
        {path: choice(values) for path, values in swept.items()},
        "validation/loss",
        "minimize",
        pruner=pruner,
    )
    with Study(folder, plan) as study:
        work_together(study, lambda trial: None)
    return study


def alone(run: Callable, folder: Path, point: dict[str, str], **given: str) -> Path:
    point = {**{path.replace("__", "."): value for path, value in given.items()}, **point}
    result = run("train", f"--config={DIGITS}", f"--workdir={folder}", *(f"--config.{k}={v}" for k, v in point.items()))
    assert result.code == 0, result.stderr
    return folder


def same_run(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    rows = [read_metrics(folder / "metrics.jsonl") for folder in (one, other)]
    assert [row.keys() for row in rows[0]] == [row.keys() for row in rows[1]]
    for ours, theirs in zip(*rows, strict=True):
        for name in (name for name in ours if not name.startswith("time/")):
            assert ours[name] == pytest.approx(theirs[name], rel=tolerance, abs=tolerance), (name, ours["step"])
    states = []
    for folder in (one, other):
        run = open_run(folder)
        with Checkpoints(folder / "checkpoints", run.checkpoint, write=False) as checkpoints:
            steps = checkpoints.steps()
            states.append(by_path(jax.device_get(checkpoints.restore(run.run.abstract_state, steps[-1])[0])))
    for path, ours in states[0].items():
        # A bias of the keys changes nothing: its gradient is rounding alone, which Adam divides by its size.
        if tolerance == 0 or "key/bias" not in path:
            np.testing.assert_allclose(ours, states[1][path], rtol=10 * tolerance, atol=tolerance, err_msg=path)
    results = [json.loads((folder / "results.json").read_text()) for folder in (one, other)]
    assert results[0] == pytest.approx(results[1], abs=tolerance)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> tuple[Path, dict[str, list]]:
    """16 trials that differ in most kinds of numbers."""
    folder = tmp_path_factory.mktemp("sweep") / "digits"
    swept = {
        "optimizer.learning_rate": [1e-3, 1e-2],
        "task.label_smoothing": [0.0, 0.2],
        "model.dropout": [0.0, 0.3],
        "seed": [0, 7],
    }
    study = sweep(folder, swept, **CLIPPED)
    assert {trial.state for trial in study.trials()} == {TrialState.COMPLETE}
    return folder, swept


@pytest.mark.parametrize("number", [0, 15])
def test_a_trial_ends_as_if_it_had_been_alone(run, digits, tmp_path, number):
    folder, values = digits
    chosen = [(number >> shift) & 1 for shift in (3, 2, 1, 0)]
    point = {path: values[path][index] for path, index in zip(values, chosen, strict=True)}
    same_run(folder / "trials" / f"{number:04d}", alone(run, tmp_path / "alone", point, **CLIPPED))


def test_trials_with_their_own_schedule_mixup_and_decay(run, tmp_path):
    swept = {"schedule.warmup.steps": [0, 4], "task.mixup": [0.2, 0.4], "training.ema": [0.5, 0.9]}
    sweep(tmp_path / "sweep", swept)
    point = {"schedule.warmup.steps": "4", "task.mixup": "0.2", "training.ema": "0.9"}
    same_run(tmp_path / "sweep/trials/0005", alone(run, tmp_path / "alone", point))


def test_what_diverges_disturbs_no_other(run, tmp_path):
    study = sweep(tmp_path / "both", {"optimizer.learning_rate": [1e-2, 1e30]}, **SGD)
    states = [trial.state for trial in study.trials()]
    assert states == [TrialState.COMPLETE, TrialState.FAIL]
    assert "not finite" in study.trials()[1].user_attrs["reason"]
    same_run(tmp_path / "both/trials/0000", alone(run, tmp_path / "alone", {"optimizer.learning_rate": "1e-2"}, **SGD))


def test_what_the_last_update_spoils_fails_alone(tmp_path):
    """The only update has a finite loss and leads to parameters of infinity, in float32 at least."""
    given = {f"training__{name}__steps": "1" for name in ("duration", "evaluate_every")} | SGD
    given |= {"optimizer__weight_decay": "10.0"}
    study = sweep(tmp_path, {"optimizer.learning_rate": [1e-2, 3e38]}, **given)
    assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE, TrialState.FAIL]
    assert "is not finite at step 0" in study.trials()[1].user_attrs["reason"]
    assert not (tmp_path / "trials/0001/results.json").exists() and not os.listdir(tmp_path / "trials/0001/checkpoints")


def test_pruned_trials_leave_and_the_others_go_on(tmp_path):
    study = sweep(
        tmp_path / "sweep",
        {"optimizer.learning_rate": [1e-2, 1.0, 3.0, 10.0]},
        pruner="halving",
        training__duration="{'steps': 12}",
        training__evaluate_every="{'steps': 2}",
    )
    states = [trial.state for trial in study.trials()]
    assert states[0] == TrialState.COMPLETE and TrialState.PRUNED in states
    pruned = states.index(TrialState.PRUNED)
    assert read_metrics(tmp_path / f"sweep/trials/{pruned:04d}/metrics.jsonl")[-1]["step"] < 12


def test_what_changes_shapes_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match=r"trials differ in model.width \(16\).*--launcher=local"):
        sweep(tmp_path / "sweep", {"model.width": [16, 32]})
    with pytest.raises(UserError, match=r"optimizer.clip_norm \(None\)"):
        sweep(tmp_path / "other", {"optimizer.clip_norm": [None, 1.0]})
    with pytest.raises(UserError, match=r"training.duration.epochs \(0.01\)"):
        epochs = {"training.duration.epochs": [0.01, 0.02]}
        sweep(tmp_path / "longer", epochs, training__duration="{'epochs': 0.01}")
    with pytest.raises(UserError, match=r"data.train_size \(100\)"):
        sweep(tmp_path / "more", {"data.train_size": [100, 200]})
    assert not list(tmp_path.glob("*/trials/*/metrics.jsonl"))


def test_what_decides_the_computation_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"one of optimizer.layer_decay decides what is computed.*--launcher=local"):
        sweep(tmp_path / "sweep", {"optimizer.layer_decay": [0.5, 0.9]})


@pytest.mark.parametrize("path", ["training.accumulate=auto", "tracker.name=mlflow"])
def test_what_each_trial_has_of_its_own_is_refused(path, tmp_path):
    name, value = path.split("=")
    with pytest.raises(UserError, match="cannot be trained together: use --launcher=local"):
        sweep(tmp_path, {"optimizer.learning_rate": [0.001, 0.002]}, **{name.replace(".", "__"): value})


def test_each_trial_answers_as_its_own_task_says(tmp_path, monkeypatch):
    penalties = []

    def answers(evaluator, variables, split):
        penalties.append(evaluator.inference.task.length_penalty)
        return enumerate([{"text": "a"}] * len(split.examples))

    monkeypatch.setattr(Evaluator, "answers", answers)
    sweep(tmp_path, {"task.length_penalty": [0.0, 2.0]}, "configs/translation/phrasebook.py:tiny")
    assert penalties == [0.0, 2.0] * 2  # on the validation and the test split


def test_who_has_run_out_of_patience_does_not_go_on(tmp_path):
    swept = {"optimizer.learning_rate": [1e-30, 1e-2]}
    patient = {"checkpoint": "{'best': 'validation/loss'}", "training__evaluate_every": "{'steps': 1}"}
    for _ in range(2):
        sweep(tmp_path, swept, **SGD, **patient, training__patience="1", training__ema="none")
        rows = read_metrics(tmp_path / "trials/0000/metrics.jsonl")
        assert rows[-1]["step"] == 2
        (tmp_path / "study.db").unlink()


def test_three_trials_on_two_devices_and_a_kill(tmp_path):
    """Uneven rows are filled up; a killed sweep goes on with all trials, to the same results."""
    script = (
        "import sys; from pathlib import Path; from tests.sweeps.test_vectorized import sweep\n"
        "sweep(Path(sys.argv[1]), {'seed': [0, 1, 2]}, training__duration=\"{'steps': 40}\")"
    )
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    for name, kill in (("whole", False), ("killed", True), ("killed", False)):
        command = [sys.executable, "-c", script, tmp_path / name]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)
        if kill:
            while process.poll() is None and len(list((tmp_path / name).glob("trials/*/checkpoints/[0-9]*"))) < 4:
                pass
            process.kill()
        _, errors = process.communicate(timeout=600)
        assert process.returncode == (-9 if kill else 0), errors.decode()
    for number in range(3):
        same_run(tmp_path / f"whole/trials/{number:04d}", tmp_path / f"killed/trials/{number:04d}", 0)


def test_a_number_takes_part_in_arithmetic_and_is_always_on():
    number = Number(jax.numpy.float32(0.25))
    assert number and number != 0.0
    assert [float(value) for value in (1 - number, number * 2, 2 / number, number**2)] == [0.75, 0.5, 8.0, 0.0625]
    with pytest.raises(TypeError):
        _ = number > 0.1
