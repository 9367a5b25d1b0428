"""Sweeps over fake trials: what happens to trials, workers and whole controllers that fail, are stopped or killed."""

import csv
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from research.errors import UserError
from research.sweeps.launchers import LocalLauncher
from research.sweeps.results import write_results
from research.sweeps.study import Study
from research.sweeps.worker import _Follower, work
from tests.sweeps.controller import DIGITS, FAKE, RATES, plan
from tests.sweeps.fake_trial import CRASH, NAN, PREEMPTED, USER_ERROR

ROOT = Path(__file__).resolve().parents[2]


def run(folder, launched, workers=2):
    """The trials after the sweep has come to its end."""
    with Study(folder, launched) as study:
        work(study, LocalLauncher(workers), lambda trial: None, FAKE)
        write_results(study)
        return study.trials()


def starts(folder):
    """How often each trial was started."""
    paths = sorted((folder / "trials").glob("*/starts"))
    return [len(path.read_text().splitlines()) for path in paths]


def controller(folder, workers=2, launcher="local", seconds="0.1", wait=True):
    """A controller in a process of its own, once it is ready, or without waiting for that."""
    command = [sys.executable, "-m", "tests.sweeps.controller", str(folder), str(workers), launcher]
    environment = os.environ | {"FAKE_SECONDS": seconds}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert not wait or process.stdout.readline() == "ready\n"
    return process


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def running(folder):
    """Processes of trials that are alive."""
    lines = [line for path in folder.glob("trials/*/starts") for line in path.read_text().splitlines()]
    return [line for line in lines if Path(f"/proc/{line.split()[0]}").exists()]


def check_complete(folder):
    with (folder / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["complete"] * len(RATES)
    assert [float(row["value"]) for row in rows] == pytest.approx([rate + 0.2 for rate in RATES])
    for row in rows:  # nothing was logged twice, so nothing was run twice
        lines = (folder / row["folder"] / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [10, 20, 30, 40, 50]


def test_every_trial_is_run_once_and_the_best_found(tmp_path):
    trials = run(tmp_path, plan(rates=(0.03, 0.01, 0.02)))
    assert [trial.value for trial in trials] == pytest.approx([0.23, 0.21, 0.22])
    assert list(trials[0].intermediate_values) == [1, 2, 3, 4, 5]
    assert starts(tmp_path) == [1, 1, 1]
    assert json.loads((tmp_path / "sweep.json").read_text())["best"]["runs"] == ["trials/0001"]
    assert run(tmp_path, plan(rates=(0.03, 0.01, 0.02))) and starts(tmp_path) == [1, 1, 1]


def test_what_goes_wrong_is_tried_again_only_where_that_may_help(tmp_path):
    wrong = (0.0, CRASH, USER_ERROR, PREEMPTED, NAN)
    trials = run(tmp_path, plan(rates=(0.01,), wrong=wrong), workers=5)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "FAIL", "COMPLETE", "FAIL"]
    assert starts(tmp_path) == [1, 3, 1, 2, 1]
    reasons = [trial.user_attrs.get("reason") for trial in trials]
    assert reasons[1:3] == ["the disk is on fire", "error: use another value"]
    assert "NaN is not a JSON number" in reasons[4]
    assert "- trial 1: the disk is on fire" in (tmp_path / "sweep.md").read_text()


def test_pruned_trials_end_early_and_keep_what_they_have(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "0.2")
    trials = run(tmp_path, plan(rates=(0.01, 0.5), pruner="halving"), workers=1)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED"]
    rows = (tmp_path / "trials/0001/metrics.jsonl").read_text().splitlines()
    assert 1 <= len(rows) < 5 and not (tmp_path / "trials/0001/results.json").exists()


def test_a_trial_is_not_given_up_at_its_last_validation(tmp_path):
    with Study(tmp_path, plan(pruner="halving")) as study:
        good, bad = study.claim(), study.claim()
        good.report(1, 0.1)
        follower = _Follower(study, bad, threading.Event())
        bad.folder.mkdir()
        with (bad.folder / "metrics.jsonl").open("a") as file:
            print(json.dumps({"step": 10, "validation/loss": 0.9}), file=file, flush=True)
            assert not follower._report() and study.frozen(1).intermediate_values == {1: 0.9}
            print(json.dumps({"step": 12, "train/loss": 0.8}), file=file, flush=True)
            assert follower._report()


@pytest.mark.parametrize("broken", ["claim", "say"])
def test_what_fails_in_one_slot_stops_the_others(broken, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "0.5")
    claim, calls = Study.claim, itertools.count(1)

    def fail(*_):
        raise UserError("the disk is full")

    with Study(tmp_path, plan(rates=(0.01,), wrong=(USER_ERROR, 0.0, 0.05))) as study:
        if broken == "claim":
            monkeypatch.setattr(Study, "claim", lambda study: claim(study) if next(calls) < 3 else fail())
        with pytest.raises(UserError, match="the disk is full"):
            work(study, LocalLauncher(2), fail if broken == "say" else lambda trial: None, FAKE)
        assert [trial.state.name for trial in study.trials()] == ["FAIL", "RUNNING", "WAITING"]


def test_a_sweep_may_be_started_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(Path("sweep"), dataclasses.replace(plan(rates=(0.01,)), spec=f"{ROOT}/{DIGITS}"))
    assert starts(tmp_path / "sweep") == [1] and (tmp_path / "sweep/trials/0000.log").exists()


def test_an_objective_that_is_not_measured_ends_the_sweep_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"validation/los is not measured.*validation/loss, test/loss"):
        run(tmp_path / "a", plan(objective="validation/los"))
    with pytest.raises(UserError, match="not measured during training"):
        run(tmp_path / "b", plan(objective="validation/bleu", pruner="median"))


def test_a_sweep_that_is_stopped_then_killed_goes_on_with_the_same_command(tmp_path):
    process = controller(tmp_path)
    wait_for(lambda: len(list(tmp_path.glob("trials/*/metrics.jsonl"))) >= 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) != 0 and not running(tmp_path)
    assert all("Traceback" not in log.read_text() for log in tmp_path.glob("trials/*.log"))

    process, stopped = controller(tmp_path, seconds="20"), starts(tmp_path)
    wait_for(lambda: len(running(tmp_path)) == 2)
    process.kill()
    process.wait()
    wait_for(lambda: not running(tmp_path), 10)  # its trials, which had a minute to go, die with it
    killed = starts(tmp_path)
    assert all(old <= new <= old + 1 for old, new in zip(stopped, killed, strict=False))

    assert controller(tmp_path, seconds="0.02").wait(60) == 0
    check_complete(tmp_path)
    assert all(old <= new <= old + 1 for old, new in zip(killed, starts(tmp_path), strict=False))
    assert sum(starts(tmp_path)) <= len(RATES) + 4  # two trials ran at each end


def test_a_killed_trial_goes_on_where_it_was(tmp_path):
    process = controller(tmp_path, workers=1)
    wait_for((tmp_path / "trials/0000/metrics.jsonl").exists)
    os.kill(int((tmp_path / "trials/0000/starts").read_text().split()[0]), signal.SIGKILL)
    assert process.wait(60) == 0
    check_complete(tmp_path)
    assert starts(tmp_path) == [2] + [1] * 7


def test_two_controllers_share_a_sweep_and_the_work_of_a_dead_one(tmp_path):
    one, other = (controller(tmp_path, workers=1, seconds="0.2", wait=False) for _ in range(2))  # at the same time
    assert one.stdout.readline() == other.stdout.readline() == "ready\n"
    wait_for(lambda: len(list(tmp_path.glob("trials/*/starts"))) >= 4)
    one.kill()
    one.wait()
    assert other.wait(60) == 0
    check_complete(tmp_path)
    assert sum(starts(tmp_path)) <= len(RATES) + 1


def test_work_in_a_thread_leaves_signals_alone(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run, args=(tmp_path, plan(rates=(0.01,))))
    thread.start()
    thread.join()
    assert starts(tmp_path) == [1] and signal.getsignal(signal.SIGTERM) is before
