"""Records of runs in Trackio, Weights & Biases and MLflow; the last two where their packages are installed."""

import importlib.machinery
import importlib.util
import itertools
import json
import os
import sqlite3

import pytest

from research.config import load
from research.errors import UserError
from research.reports.training import train
from research.runs.experiment import build_experiment
from research.training import trackers
from research.training.interruptions import Interrupted
from research.training.loggers import read_metrics
from research.training.trackers import TRACKERS, Tracked, Trackio

SPEC = "configs/vision/digits.py:tiny"
EACH_STEP = {"training.log_every": "1"}


class Kept:
    """A tracker that keeps what it is given, and fails at the `failing`-th time."""

    def __init__(self, failing=None):
        self.failing, self.begun, self.rows, self.ended = failing, [], [], []

    def record(self, folder, config, known):
        self.begun.append(known)
        self.config, self.id = config, known or "first"
        if self.failing == 0:
            raise OSError("the server\nis away")
        return self

    def log(self, metrics, step):
        self.rows.append((step, metrics))
        if len(self.rows) == self.failing:
            raise OSError("the server is away")

    def finish(self, *, failed):
        self.ended.append(failed)


@pytest.fixture
def kept(monkeypatch):
    """`kept(failing)`: what the name "trackio" means then."""

    def put(failing=None):
        tracker = Kept(failing)
        monkeypatch.setattr(Trackio, "record", lambda self, *given: tracker.record(*given))
        monkeypatch.setattr(Trackio, "package", "json")  # one that is always there
        return tracker

    return put


def start(folder, **more):
    return train(SPEC, folder, {**EACH_STEP, "tracker.name": "trackio", **more})


def test_a_record_holds_the_log_and_the_results_and_is_continued(tmp_path, kept):
    tracker = kept()
    results = start(tmp_path / "run")
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert tracker.rows == [*((row.pop("step"), row) for row in rows), (6, results)]
    assert tracker.begun == [None] and tracker.ended == [False] and tracker.config["model.width"] == 16
    longer = start(tmp_path / "run", **{"training.duration": "{'steps': 8}"})
    assert tracker.begun == [None, "first"] and tracker.rows[-1] == (8, longer) and tracker.ended == [False, False]
    assert json.loads((tmp_path / "run" / "tracker.json").read_text()) == {"name": "json", "id": "first"}


@pytest.mark.parametrize("failing", [0, 1, 4, 9])
def test_a_tracker_that_fails_is_a_warning(failing, tmp_path, kept, capsys):
    tracker = kept(failing)
    found = start(tmp_path / "run")
    assert found == train(SPEC, tmp_path / "other", EACH_STEP)
    told = [line for line in capsys.readouterr().err.splitlines() if "tracker" in line]
    assert told == ["warning: the tracker failed, and the run continues without it: OSError: the server is away"]
    assert len(tracker.rows) == failing and tracker.ended == []


def test_a_run_that_crashes_says_so(tmp_path, kept, monkeypatch):
    tracker = kept()
    monkeypatch.setattr("research.reports.training.evaluate", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        start(tmp_path / "run")
    assert tracker.ended == [True]
    with pytest.raises(Interrupted), Tracked(Trackio(), tmp_path, {}):
        raise Interrupted("stopped, and the same command resumes")
    assert tracker.ended == [True, False]


def test_a_package_that_is_not_there_is_said_before_training(tmp_path, monkeypatch):
    folder = importlib.machinery.ModuleSpec("folder", None)  # one of that name in the working folder
    for name, spec in itertools.product(TRACKERS, (None, folder)):
        monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name, spec=spec: spec)
        with pytest.raises(UserError, match=rf"tracker\.name '{name}' needs its package: pip install {name}, or leave"):
            train(SPEC, tmp_path / name, {"tracker.name": name})
        assert not (tmp_path / name / "checkpoints").exists()


def test_a_run_resumes_with_another_tracker_or_without(tmp_path, kept):
    kept()
    start(tmp_path / "run")
    results = train(SPEC, tmp_path / "run", EACH_STEP)
    assert results == train(SPEC, tmp_path / "run", {**EACH_STEP, "tracker.name": "mlflow"}), "it is complete"


def test_tracker_is_a_section_like_others(tmp_path):
    for overrides, message in {
        "tracker.name=mlfow": r"tracker\.name is 'mlfow': did you mean mlflow",
        "tracker.projct=x": r"projct",
    }.items():
        name, value = overrides.split("=")
        with pytest.raises(UserError, match=message):
            build_experiment(load(SPEC, {"tracker.name": "mlflow", name: value}), tmp_path)


def test_no_tracker_is_nothing(tmp_path):
    with Tracked(None, tmp_path, {}) as tracked:
        tracked.write(1, {"train/loss": 1.0})
    assert not list(tmp_path.iterdir()) and Trackio() == Trackio(project="heed")


def losses(name, root, folder):
    """{step: train/loss} as the tracker's own file has them; None for a format of its own."""
    if name == "mlflow":
        with sqlite3.connect(root / "mlflow.db") as base:
            return dict(base.execute("select step, value from metrics where key = 'train/loss'"))
    if name == "trackio":
        with sqlite3.connect(root / "heed.db") as base:
            rows = [(step, json.loads(row)) for step, row in base.execute("select step, metrics from metrics")]
        return {step: row["train/loss"] for step, row in rows if "train/loss" in row}
    files = list((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    kept = json.loads((folder / "tracker.json").read_text())["id"]
    assert len(files) == 2 and all(kept in file.name and file.stat().st_size > 2000 for file in files)
    return None


@pytest.mark.parametrize("name", TRACKERS)
def test_the_real_trackers_keep_a_run_that_resumes(name, tmp_path, forked):
    if importlib.util.find_spec(TRACKERS[name].package) is None:
        pytest.skip(f"{name} is not installed")
    folder = tmp_path / "run"
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    for steps in (4, 6):
        arguments = [f"--config={SPEC}", f"--workdir={folder}", f"--config.tracker.name={name}"]
        arguments += ["--config.training.log_every=1", f"--config.training.duration={{'steps': {steps}}}"]
        ended = forked("experiments.train", arguments, environment)
        assert ended.code == 0 and "tracker failed" not in ended.stderr, ended.stderr
    found = losses(name, tmp_path, folder)
    expected = {row["step"]: row["train/loss"] for row in read_metrics(folder / "metrics.jsonl") if "train/loss" in row}
    assert found in (None, pytest.approx(expected, rel=1e-6)) and len(expected) == 6
