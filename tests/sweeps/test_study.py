"""The database of a sweep: each trial once, whoever takes it."""

import fcntl
import importlib.util
import os
import platform
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from research import locks
from research.errors import UserError
from research.search_space import choice, given, log_uniform, uniform
from research.sweeps.plan import Plan
from research.sweeps.progress import summarize
from research.sweeps.study import Study, _identity
from tests.sweeps.controller import DIGITS, plan

RANGED = {
    "optimizer.name": choice(["adamw", "sgd"]),
    "optimizer.momentum": given("optimizer.name", "sgd", uniform(0.5, 0.9)),
    "optimizer.learning_rate": log_uniform(1e-4, 1e-1),
}


def ranged(trials, sampler="tpe", **changes):
    return Plan(DIGITS, {}, RANGED, "validation/loss", "minimize", sampler=sampler, trials=trials, **changes)


def finish(study):
    """Ends all that is left with the learning rate as the value; the points in order."""
    while trial := study.claim():
        trial.complete(trial.point["optimizer.learning_rate"])
    return [trial.params for trial in study.trials()]


def test_trials_are_taken_once_and_gone_on_with(tmp_path):
    with Study(tmp_path / "a", plan()) as one, Study(tmp_path / "a", plan()) as other:
        first, second = one.claim(), other.claim()
        assert (first.number, second.number) == (0, 1)
        assert first.point != second.point and first.overrides["optimizer.learning_rate"] == "0.01"
        assert first.folder == tmp_path / "a/trials/0000" and first.spec == DIGITS
        first.note(failures=1)
        first.report(1, 0.5)
        first.release()
        again = other.claim()
        assert again.number == 0 and again.point == first.point and again.notes["failures"] == 1
        again.complete(0.1)
        second.fail("broken")
        assert other.claim().number == 2 and one.claim().number == 3
    with Study(tmp_path / "a", plan()) as later:
        assert [trial.state.name for trial in later.trials()][:4] == ["COMPLETE", "FAIL", "RUNNING", "RUNNING"]
        assert [later.claim().number for _ in range(6)] == [2, 3, 4, 5, 6, 7] and later.claim() is None
        assert later.frozen(1).user_attrs["reason"] == "broken"


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_more_trials_may_be_added_but_none_taken_away(sampler, tmp_path):
    with Study(tmp_path, ranged(4, sampler)) as study:
        few = finish(study)
    with Study(tmp_path, ranged(12, sampler)) as study:
        more = finish(study)
        assert more[:4] == few and len(more) == 12 and len({str(point) for point in more}) == 12
    with pytest.raises(UserError, match="has 12 trials already"):
        Study(tmp_path, ranged(4, sampler))


def test_two_processes_ask_tpe_for_the_points_that_one_would_try(tmp_path):
    with Study(tmp_path / "one", ranged(14)) as study:
        points = finish(study)
    with Study(tmp_path / "two", ranged(14)) as a, Study(tmp_path / "two", ranged(14)) as b:
        while trial := a.claim() or b.claim():
            trial.complete(trial.point["optimizer.learning_rate"])
            a, b = b, a
        assert [trial.params for trial in a.trials()] == points
    rates = [point["optimizer.learning_rate"] for point in points]
    assert min(rates[10:]) < 1e-3 and len(set(rates)) == 14


def test_cmaes_searches_or_says_what_it_needs(tmp_path):
    if importlib.util.find_spec("cmaes") is None:
        with pytest.raises(UserError, match="needs the package cmaes"):
            ranged(4, "cmaes")
        return
    space = {name: uniform(-4, 4) for name in ("optimizer.b1", "optimizer.b2")}
    with Study(tmp_path, Plan(DIGITS, {}, space, "x/loss", "minimize", sampler="cmaes", trials=60)) as study:
        while trial := study.claim():
            trial.complete(sum((value - 1) ** 2 for value in trial.point.values()))
        values = [trial.value for trial in study.trials()]
    assert min(values[30:]) < 0.5 and sum(values[40:]) < sum(values[:20])


def test_a_pruner_gives_up_what_is_worse(tmp_path):
    with Study(tmp_path, plan(pruner="halving")) as study:
        good, bad = study.claim(), study.claim()
        assert not good.report(1, 0.1) and bad.report(1, 0.9) and not good.report(2, 0.1)
        bad.prune()
        good.complete(0.1)
        states = [(trial.state.name, trial.value) for trial in study.trials()[:2]]
        assert states == [("COMPLETE", 0.1), ("PRUNED", 0.9)]


def test_another_machine_counts_as_dead_only_when_it_is_silent(tmp_path, monkeypatch):
    """Locks may not reach over a network: the last beat of the owner then decides."""
    with Study(tmp_path, plan()) as study:
        lock = tmp_path / "trials/0000.lock"
        lock.write_text("another machine")
        assert study.claim().number == 1
        os.utime(lock, (time.time() - 31,) * 2)
        assert study.claim().number == 0
        monkeypatch.setattr(locks, "BEAT_SECONDS", 0.01)
    with Study(tmp_path, plan()) as study:
        held = study.claim()
        os.utime(lock, (0, 0))
        deadline = time.monotonic() + 20
        while lock.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert held.number == 0 and lock.stat().st_mtime > 0
        with lock.open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_another_sweep_or_a_broken_database_is_refused_in_a_sentence(tmp_path):
    Study(tmp_path / "a", plan())
    with pytest.raises(UserError, match=r"another sweep \(objective is 'validation/loss' there and 'test/x' here"):
        Study(tmp_path / "a", plan(objective="test/x"))
    with pytest.raises(UserError, match=r"another sweep \(sweep.optimizer.learning_rate is"):
        Study(tmp_path / "a", plan(rates=(0.5,)))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "study.db").write_text("not a database" * 100)
    for folder, storage in ((tmp_path / "b", None), (tmp_path / "c", "nonsense"), (tmp_path / "d", "postgresql://x/y")):
        with pytest.raises(UserError, match="cannot be opened"):
            Study(folder, plan(), storage)
    with sqlite3.connect(tmp_path / "a" / "study.db") as database:
        database.execute("alter table studies rename column study_name to name")
    with pytest.raises(UserError, match=r"cannot be opened \(table studies has no column named study_name\): use"):
        Study(tmp_path / "a", plan())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Study(tmp_path / "file", plan())


def test_a_trial_that_another_machine_takes_at_the_same_moment_is_its_own(tmp_path, monkeypatch):
    with Study(tmp_path, plan()) as study:
        begin = study._storage.set_trial_state_values

        def slower(*arguments):
            monkeypatch.undo()
            begin(*arguments)  # by the other machine
            return begin(*arguments)

        monkeypatch.setattr(study._storage, "set_trial_state_values", slower)
        assert [study.claim().number, study.claim().number] == [1, 2]
        lock = tmp_path / "trials/0000.lock"
        assert lock.read_text() not in ("", platform.node())
        os.utime(lock, (time.time() - 31,) * 2)
        assert study.claim().number == 0


def test_sweeps_of_the_same_name_do_not_share_a_database(tmp_path):
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    one, other = tmp_path / "a/digits", tmp_path / "b/digits"
    Study(one, plan(), storage)
    with pytest.raises(UserError, match=r"holds a study digits of another folder: rename .*/b/digits"):
        Study(other, plan(), storage)
    with sqlite3.connect(tmp_path / "shared.db") as database:  # as sweeps without identities are
        database.execute("delete from study_user_attributes where key = 'folder'")
    (one / "study.id").unlink()
    for _ in range(2):
        Study(one, plan(), storage)
    (tmp_path / "c").mkdir()
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(_identity, [tmp_path / "c"] * 64))) == 1
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["study.id"]


def test_who_finds_all_trials_taken_has_done_nothing_wrong(tmp_path, capsys):
    with Study(tmp_path, plan(rates=(0.1,))) as one, Study(tmp_path, plan(rates=(0.1,))) as other:
        trial = one.claim()
        assert other.claim() is None
        summarize(other)
        assert "1 running" in capsys.readouterr().out
        trial.fail("broken")
        with pytest.raises(UserError, match="no trial of"):
            summarize(other)
