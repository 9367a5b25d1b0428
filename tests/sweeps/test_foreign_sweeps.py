"""Sweeps that somebody else made, or that were damaged: nothing of them is run, and nothing outside of them read."""

import contextlib
import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from research.errors import UserError
from research.search_space import choice, given, log_uniform, uniform
from research.sweeps.compare import compare
from research.sweeps.launchers import LocalLauncher
from research.sweeps.pictures import draw
from research.sweeps.plan import Plan
from research.sweeps.results import write_results
from research.sweeps.study import Study
from research.sweeps.worker import work
from tests.sweeps.controller import DIGITS, FAKE, plan

SPACE = {
    "optimizer.name": choice(["adamw", "sgd"]),
    "optimizer.momentum": given("optimizer.name", "sgd", uniform(0.5, 0.9)),
    "optimizer.learning_rate": log_uniform(1e-4, 1e-1),
    "optimizer.b1": uniform(0.1, 0.9),
}
SECRET = "the words of another file"


def searched(sampler="tpe", trials=6):
    return Plan(DIGITS, {}, SPACE, "validation/loss", "minimize", sampler=sampler, pruner="halving", trials=trials)


def begin(folder, sampler="tpe", trials=6):
    """Trials of every state: complete, pruned, failed, running, waiting."""
    with Study(folder, searched(sampler, trials)) as study:
        for number in range(4):
            trial = study.claim()
            trial.report(1, 0.1 * number)
            trial.note(seconds=1.0, failures=1)
            ends = (lambda t: t.complete(0.3), lambda t: t.prune(), lambda t: t.fail("broken"), lambda t: t.release())
            ends[number](trial)


def resume(folder, sampler="tpe", trials=6):
    """Everything that reads the study; the values of its trials."""
    with Study(folder, searched(sampler, trials)) as study:
        while trial := study.claim():
            trial.note(failures=trial.notes.get("failures", 0) + 1)
            trial.report(2, 0.2)
            trial.complete(0.5)
        write_results(study)
        return [trial.value for trial in study.trials()]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    folder = tmp_path_factory.mktemp("begun") / "sweep"
    begin(folder)
    return folder


@contextlib.contextmanager
def database(folder):
    with contextlib.closing(sqlite3.connect(folder / "study.db")) as connection, connection:
        yield connection


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe", "cmaes"])
def test_no_pickle_of_a_database_is_read(sampler, tmp_path, monkeypatch):
    folder, marker = tmp_path / "sweep", tmp_path / "marker"
    if sampler == "grid":
        points = plan(rates=tuple(index / 100 for index in range(1, 7)), sampler=sampler)
    else:
        space = {name: uniform(-4, 4) for name in ("optimizer.b1", "optimizer.b2")}
        points = Plan(DIGITS, {}, space, "validation/loss", "minimize", sampler=sampler, trials=14)
    with Study(folder, points) as study:
        for _ in range(3 if sampler == "grid" else 11):
            study.claim().complete(0.5)
        study.claim().release()
    content = f"cos\nmkdir\n(S'{marker}'\ntR."
    names = ("cma:optimizer:0", "cma:generation", "optimizer", "sampler", "pruner", "terminator", "artifacts:a")
    with database(folder) as connection:
        trials = [row[0] for row in connection.execute("SELECT trial_id FROM trials")]
        for name in names:
            value = json.dumps(0 if name == "cma:generation" else content.encode().hex())
            for kind, owners in (("study", [1]), ("trial", trials)):
                for table in (f"{kind}_system_attributes", f"{kind}_user_attributes"):
                    rows = [(owner, name, value) for owner in owners]
                    connection.executemany(f"INSERT INTO {table} ({kind}_id, key, value_json) VALUES (?, ?, ?)", rows)

    def refuse(*_):
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(f"pickle.{name}", refuse)
    with Study(folder, points) as study:
        while trial := study.claim():
            trial.complete(0.4)
        write_results(study)
        assert all(trial.state.is_finished() for trial in study.trials())
    assert not marker.exists()


GARBAGE = [
    ("studies", "study_id", 7),
    ("study_directions", "direction", "x"),
    ("study_directions", "study_id", -1),
    ("study_user_attributes", "value_json", "x"),
    ("study_user_attributes", "value_json", "[" * 100_000),
    ("study_user_attributes", "value_json", "[]"),
    ("trials", "number", "x"),
    ("trials", "number", -1),
    ("trials", "state", "x"),
    ("trials", "datetime_start", "x"),
    ("trial_user_attributes", "value_json", "x"),
    ("trial_user_attributes", "value_json", "null"),
    ("trial_system_attributes", "value_json", '{"optimizer.b1": 7}'),
    ("trial_system_attributes", "value_json", "5"),
    ("trial_values", "value", "x"),
    ("trial_values", "value_type", "x"),
    ("trial_values", "value_type", "INF_POS"),
    ("trial_params", "param_name", "model.width"),
    ("trial_params", "param_value", "x"),
    ("trial_params", "param_value", 1e308),
    ("trial_params", "distribution_json", "[]"),
    ("trial_params", "distribution_json", '{"name": "os.system", "attributes": {"command": "true"}}'),
    ("trial_params", "distribution_json", '{"name": "FloatDistribution", "attributes": {"low": 0, "high": 9}}'),
    ("trial_intermediate_values", "intermediate_value", "x"),
    ("trial_intermediate_values", "step", "x"),
]


@pytest.mark.parametrize(("table", "column", "value"), GARBAGE, ids=lambda value: str(value)[:30])
def test_a_database_with_anything_in_it_is_a_sentence(table, column, value, begun, tmp_path):
    folder = tmp_path / "sweep"
    shutil.copytree(begun, folder)
    with database(folder) as connection:
        connection.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", (value,))
    with pytest.raises(UserError) as error:
        resume(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_what_is_left_alone_is_resumed(begun, tmp_path):
    shutil.copytree(begun, tmp_path / "sweep")
    assert resume(tmp_path / "sweep") == [0.3, 0.1, None, 0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE VIEW a AS SELECT 1",
        "CREATE TRIGGER a AFTER INSERT ON trial_values BEGIN DELETE FROM trials; END",
    ],
)
def test_a_database_has_no_programs(statement, begun, tmp_path):
    shutil.copytree(begun, tmp_path / "sweep")
    with database(tmp_path / "sweep") as connection:
        connection.execute(statement)
    with pytest.raises(UserError, match=r"study\.db has a view or trigger 'a'"):
        resume(tmp_path / "sweep")


def spoil_with_pipe(path):
    os.mkfifo(path)


def spoil_with_link(path):
    path.symlink_to(path.parents[1] / "other")


def spoil_with_folder(path):
    path.mkdir()


@pytest.mark.parametrize("name", ["study.db", "study.db-journal", "study.id", ".lock"])
@pytest.mark.parametrize("spoil", [spoil_with_pipe, spoil_with_link, spoil_with_folder])
def test_other_things_in_the_place_of_a_file_are_a_sentence(name, spoil, begun, tmp_path):
    folder = tmp_path / "sweep"
    shutil.copytree(begun, folder)
    (tmp_path / "other").write_text(SECRET)
    (folder / name).unlink(missing_ok=True)
    spoil(folder / name)
    with pytest.raises(UserError, match=rf"{name} (is not a file|leads out|cannot be read)") as error:
        resume(folder)
    assert SECRET not in str(error.value) and (tmp_path / "other").read_text() == SECRET


def test_trials_that_lie_elsewhere_are_not_worked_on(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "metrics.jsonl").write_text('{"step": 10, "validation/loss": 0.123}\n')
    (other / "results.json").write_text('{"validation/loss": 0.123}')
    before = sorted(other.iterdir())
    for name, kind in (("0000", "leads out"), ("0000.log", "leads out")):
        folder = tmp_path / name.replace(".", "")
        with Study(folder, plan(rates=(0.1,))) as study:
            (folder / "trials" / name).symlink_to(other if name == "0000" else other / "results.json")
            with pytest.raises(UserError, match=f"{name} {kind}"):
                work(study, LocalLauncher(1), lambda trial: None, FAKE)
    for make in (Path.touch, os.mkfifo):
        folder = tmp_path / make.__name__
        with Study(folder, plan(rates=(0.1,))) as study:
            make(folder / "trials" / "0000")
            with pytest.raises(UserError, match="0000 is in the way"):
                study.claim()
    assert sorted(other.iterdir()) == before


def test_a_log_or_results_of_somewhere_else_are_not_read(tmp_path):
    """A link that a trial itself leaves, after it was looked at."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "results.json").write_text('{"validation/loss": 0.123}')
    (other / "metrics.jsonl").write_text('{"step": 10, "validation/loss": 0.123}\n')
    script = f'for f in results.json metrics.jsonl; do mkdir -p "${{2#*=}}"; ln -s {other}/$f "${{2#*=}}"/$f; done'
    with Study(tmp_path / "sweep", plan(rates=(0.1,), pruner="halving")) as study:
        work(study, LocalLauncher(1), lambda trial: None, ["sh", "-c", script, "sh"])
        (trial,) = study.trials()
        write_results(study)
        draw(study)
    assert trial.state.name == "FAIL" and "leads out" in trial.user_attrs["reason"] and not trial.intermediate_values
    assert "0.123" not in (tmp_path / "sweep/sweep.csv").read_text()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", '{"seed": [1]}', "has the seed"),
        ("config.json", "[]", "config.json"),
        ("results.json", '{"validation/loss": 1e999}', "results.json"),
        ("results.json", '{"validation/loss": "nan"}', "results.json"),
        ("results.json", '{"validation/loss": 1' + "0" * 400 + "}", "nothing is compared with"),
    ],
)
def test_a_damaged_run_is_not_compared(name, content, words, tmp_path):
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        (tmp_path / str(seed) / "config.json").write_text(json.dumps({"seed": seed}))
        (tmp_path / str(seed) / "results.json").write_text('{"validation/loss": 0.5}')
    assert "difference of +0" in compare(tmp_path, tmp_path, "validation/loss")
    (tmp_path / "1" / name).write_text(content)
    with pytest.raises(UserError, match=words):
        compare(tmp_path, tmp_path, "validation/loss")


@pytest.mark.parametrize("name", ["config.json", "results.json"])
def test_files_of_a_run_that_lie_elsewhere_are_not_compared(name, tmp_path):
    sweep = tmp_path / "sweep"
    (sweep / "0").mkdir(parents=True)
    for each, content in (("config.json", '{"seed": 0}'), ("results.json", '{"validation/loss": 0.5}')):
        (tmp_path / each).write_text(content)
        (sweep / "0" / each).write_text(content)
    (sweep / "0" / name).unlink()
    (sweep / "0" / name).symlink_to(tmp_path / name)
    with pytest.raises(UserError, match="neither a sweep nor finished runs"):
        compare(sweep, sweep, "validation/loss")
    (sweep / "sweep.json").write_text('{"objective": "validation/loss", "best": {"runs": ["0"]}}')
    with pytest.raises(UserError, match=f"{name} leads out of"):
        compare(sweep, sweep)
