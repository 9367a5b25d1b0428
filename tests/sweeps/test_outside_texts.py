"""Texts and files that trials leave behind are data: short in tables, and never code."""

import ast
import csv
import json
import math
import signal
import sys
import threading
from types import MappingProxyType

import pytest

from experiments.sweep import _parser, main
from research.config import load
from research.errors import UserError, one_line
from research.runs.command import parse
from research.search_space import choice, integer, log_uniform, uniform
from research.sweeps.compare import compare
from research.sweeps.database import sqlite_url
from research.sweeps.launchers import LocalLauncher
from research.sweeps.plan import Plan
from research.sweeps.progress import Progress
from research.sweeps.results import _config, write_results
from research.sweeps.study import Study
from research.sweeps.worker import _Follower, ending, work
from research.training.interruptions import RESTART
from tests.sweeps.controller import DIGITS, FAKE, plan


@pytest.mark.parametrize(
    ("code", "written", "expected"),
    [
        (-signal.SIGSEGV, b"a" * 5_000_000, "ended by SIGSEGV: " + "a" * 199 + "…"),
        (128 + signal.SIGKILL, b"working\n", "ended by SIGKILL: working"),
        (-signal.SIGKILL, b"", "ended by SIGKILL"),
        (2, b"one\nerror: two\n\n  \n", "error: two"),
        (1, b"\x1b[31mred\x1b[0m \x1b]0;title\x07 caf\xe9 | \x00\r\n", "red ]0;title caf\N{REPLACEMENT CHARACTER} |"),
        (3, b"", "exit code 3"),
    ],
)
def test_the_end_of_a_trial_is_one_short_line(code, written, expected, tmp_path):
    (tmp_path / "trial.log").write_bytes(written)
    assert ending(code, tmp_path / "trial.log") == expected


def test_a_log_that_is_no_file_says_nothing(tmp_path):
    assert ending(1, tmp_path) == ending(1, tmp_path / "missing") == "exit code 1"


class Hostile:
    """Stands for a plan and a group whose texts would leave their quotes."""

    spec = 'configs/a.py:"""\nimport os\n"""'
    objective = 'loss"""\nimport os; os.mkdir("marker")\n"""\\'
    given = MappingProxyType({'a"\n': "\\"})
    trials = ()

    def __str__(self) -> str:
        return '"""'


def test_the_best_config_holds_texts_as_literals():
    tree = ast.parse(_config(Hostile(), {"b'": '"\n\\'}, Hostile()))
    assert [type(node).__name__ for node in tree.body] == ["Expr", "ImportFrom", "ImportFrom", "Assign", "FunctionDef"]
    assert ast.literal_eval(tree.body[3].value).keys() == {'a"\n', "b'"}
    (returned,) = (node for node in ast.walk(tree.body[4]) if isinstance(node, ast.Call))
    assert returned.func.id == "load" and ast.literal_eval(returned.args[0]) == Hostile.spec


def test_one_line():
    assert one_line("a\n\tb\u2028c\u202e") == "a b c"


@pytest.mark.parametrize("content", ["[]", "null", '{"best": 5}', '{"best": {"runs": [1]}}', "{", '{"best": NaN}'])
def test_a_damaged_summary_is_a_sentence(content, tmp_path):
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(UserError, match=r"sweep\.json"):
        compare(tmp_path, tmp_path)


def test_runs_elsewhere_are_not_read(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "sweep"
    outside.mkdir()
    folder.mkdir()
    (outside / "results.json").write_text('{"validation/loss": 1.0}')
    (folder / "link").symlink_to(outside)
    for run in ("../outside", "link", str(outside)):
        summary = {"objective": "validation/loss", "best": {"runs": [run]}}
        (folder / "sweep.json").write_text(json.dumps(summary))
        with pytest.raises(UserError, match="leads out of"):
            compare(folder, folder)


def test_a_study_lies_in_a_folder_of_any_name(tmp_path):
    import optuna

    folder = tmp_path / "a?b%20c#d{e}[f] 'g' é"
    folder.mkdir()
    optuna.storages.RDBStorage(sqlite_url(folder / "study.db"))
    assert [path.name for path in folder.iterdir()] == ["study.db"]


def test_a_trial_that_a_signal_ends_after_many_words(tmp_path, capsys):
    """From the log to the tables, the database and the terminal."""
    code = "import os; print('\\x1b[31m' + '|' * 5_000_000, flush=True); os.kill(os.getpid(), 11)"
    with Study(tmp_path / "sweep", plan(rates=(0.1,))) as study, Progress(study) as progress:
        work(study, LocalLauncher(1), progress.say, [sys.executable, "-c", code])
        (trial,) = study.trials()
    reason = "ended by SIGSEGV: " + "|" * 181 + "…"  # 200 characters in all
    assert trial.user_attrs["reason"] == reason and trial.user_attrs["failures"] == 3
    assert (tmp_path / "sweep/trials/0000.log").stat().st_size > 15_000_000
    (row,) = csv.DictReader((tmp_path / "sweep/sweep.csv").open())
    assert row["reason"] == reason and len((tmp_path / "sweep/sweep.md").read_text()) < 1000
    assert len(printed := capsys.readouterr().out) < 1000 and reason in printed and "\x1b" not in printed


def test_cells_of_tables_stay_cells(tmp_path):
    values = ["a|b", "c\nd", "\x1b[2J`e`", "f" * 5000]
    space = {"model.pool": choice(values)}
    with Study(tmp_path / "x\n# y", Plan(DIGITS, {}, space, "validation/loss", "minimize")) as study:
        while trial := study.claim():
            trial.complete(float(trial.number))
        write_results(study)
        trials = len(study.trials())
    lines = (study.folder / "sweep.md").read_text().splitlines()
    assert lines[0] == "# x # y: validation/loss, minimized" and [line[:2] for line in lines[4:]] == ["| "] * 6
    assert lines[5].startswith("| --- |") or lines[5].startswith("| ")
    assert all(line.replace("\\|", "").count("|") == 4 for line in lines[4:]) and max(map(len, lines)) < 300
    (*_, last) = csv.DictReader((study.folder / "sweep.csv").open())
    assert trials == 4 and last["model.pool"] == "f" * 199 + "…"


def test_a_job_that_a_signal_ends_is_told_in_one_line(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    from research.sweeps import slurm_launcher

    code = "import os, sys; print('b' * 100_000, file=sys.stderr, flush=True); os.kill(os.getpid(), 11)"
    monkeypatch.setattr(slurm_launcher, "SWEEP", (sys.executable, "-c", code))
    monkeypatch.setattr("submitit.local.local.LocalJob.state", "FAILED")  # of jobs that end, SLURM knows how
    with pytest.raises(UserError, match=r"^job \S+ failed: .*ended by SIGSEGV") as error:
        slurm_launcher.submit([], tmp_path, 1, 1, 0, lambda: None, "local")
    assert len(str(error.value)) < 1000 and "bbb" not in str(error.value)
    for jobs, cpus, gpus in ((-1, 1, 0), (10**9, 1, 0), (1, 0, 0), (1, 1, -1)):
        with pytest.raises(UserError, match="out of range"):
            slurm_launcher.submit([], tmp_path, jobs, cpus, gpus, lambda: None, "local")


def test_a_trial_that_ray_cannot_start_fails_with_its_words(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    from research.sweeps import ray_launcher

    class Host:
        class poll:
            remote = staticmethod(lambda: None)

    def died(failed):
        def get(*_, **__):
            raise ray.exceptions.RayActorError(None, "many\nlines\nPermissionError: /x\n", failed)

        return get

    trial = ray_launcher.RemoteTrial(Host, tmp_path / "log")
    monkeypatch.setattr(ray, "get", died(True))
    assert ending(trial.poll(), tmp_path / "log") == "not started by Ray: PermissionError: /x"
    monkeypatch.setattr(ray, "get", died(False))
    assert trial.poll() == RESTART
    with pytest.raises(UserError, match="out of range"):
        ray_launcher.RayLauncher(10**6, 1, 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--workers=1000000"], "--workers=1000000 is out of range"),
        (["--trials=1000000000"], "--trials=1000000000 is out of range"),
        (["--seeds=-1"], "--seeds=-1 needs"),
        (["--seeds=1000000000"], "--seeds=1000000000 needs"),
        (["--sweep.seed="], "no values"),
        ([f"--sweep.{path}=" + ",".join(map(str, range(1, 101))) for path in ("a.b", "a.c", "a.d", "a.e")], "points"),
    ],
)
def test_numbers_out_of_range_are_a_sentence(options, words, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.sweep.check_space", lambda *_: None)
    with pytest.raises(UserError, match=words):
        main(parse(_parser(), [f"--config={DIGITS}", f"--workdir={tmp_path / 'a'}", "--sweep.model.width=1", *options]))


@pytest.mark.parametrize(
    "make",
    [
        lambda: uniform(float("nan"), 1),
        lambda: uniform(0, float("inf")),
        lambda: uniform(0, 10**400),
        lambda: uniform("0", 1),
        lambda: uniform(False, True),
        lambda: log_uniform(1e-4, float("nan")),
        lambda: integer(1.5, 3),
        lambda: integer(1, 2**70),
        lambda: choice([object()]),
        lambda: choice([float("nan")]),
    ],
)
def test_ranges_are_of_finite_numbers(make):
    with pytest.raises(UserError, match=r"a sweep (goes from|lists the value)"):
        make()


@pytest.mark.parametrize("value", ["nan", None, True, 10**400, float("inf"), float("nan")])
def test_an_objective_that_is_no_finite_number_fails_the_trial(value, tmp_path):
    with Study(tmp_path, plan(rates=(0.1,))) as study:
        study.claim().book({"validation/loss": value})
        (trial,) = study.trials()
    assert trial.state.name == "FAIL" and trial.user_attrs["reason"].startswith("validation/loss is ")


def test_a_trial_without_any_results_fails_alone(tmp_path):
    with Study(tmp_path, plan(rates=(0.1,))) as study:
        study.claim().book({})
        assert study.trials()[0].user_attrs["reason"] == "validation/loss is missing"


def test_metrics_without_the_objective_are_left_out(tmp_path):
    with Study(tmp_path, plan(rates=(0.1,))) as study:
        trial = study.claim()
        trial.folder.mkdir()
        rows = ["[]", "null", '{"step": 1, "validation/loss": 0.5}', '{"step": 2, "validation/accuracy": 1}', "5",
                '{"step": 3, "validation/loss": "nan"}', '{"step": 4, "validation/loss": "many"}']  # fmt: skip
        (trial.folder / "metrics.jsonl").write_text("\n".join([*rows, ""]))
        assert not _Follower(study, trial, threading.Event())._report()
        reported = study.frozen(0).intermediate_values
    assert reported[1] == 0.5 and set(reported) <= {1, 3} and all(map(math.isnan, list(reported.values())[1:]))


@pytest.mark.parametrize("moment", ["set_trial_state_values", "set_trial_param", "set_trial_user_attr"])
def test_a_trial_that_is_interrupted_while_it_is_made_is_made_again(moment, tmp_path, monkeypatch):
    space = {"optimizer.b1": uniform(0.1, 0.9), "optimizer.b2": uniform(0.1, 0.9)}
    searched = Plan(DIGITS, {}, space, "validation/loss", "minimize", sampler="tpe", trials=2)
    with Study(tmp_path / "whole", searched) as study:
        study.claim().complete(0.1)
        whole = study.trials()[0].params
    with Study(tmp_path / "stopped", searched) as study:
        kept = getattr(study._storage, moment)

        def interrupt(*arguments):
            monkeypatch.undo()
            kept(*arguments)
            raise KeyboardInterrupt

        monkeypatch.setattr(study._storage, moment, interrupt)
        with pytest.raises(KeyboardInterrupt):
            study.claim().note(seconds=1.0)
    with Study(tmp_path / "stopped", searched) as study:
        trial = study.claim()
        assert trial.number == 0
        trial.complete(0.1)
        params = study.trials()[0].params
        assert params.keys() == whole.keys() and params["optimizer.b1"] == whole["optimizer.b1"]


def test_a_sweep_in_a_folder_of_an_odd_name(tmp_path):
    folder = tmp_path / ("a?b%20c#d{e}[f] 'g' \"h\" é;&$HOME\n" + "x" * 160)
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    folder.mkdir()
    for place in (folder, tmp_path / "link"):
        with Study(place, plan(rates=(0.2, 0.1))) as study:
            work(study, LocalLauncher(1), lambda trial: None, FAKE)
            write_results(study)
            assert [trial.state.name for trial in study.trials()] == ["COMPLETE"] * 2
    assert load(str(folder / "best.py")).optimizer.learning_rate == 0.1
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, "link"}
    assert (folder / "study.db").is_file()


def test_a_password_is_not_shown(tmp_path):
    for url in ("postgresql://me:hidden@nowhere/x", "no url me:hidden@x"):
        with pytest.raises(UserError, match="cannot be opened") as error:
            Study(tmp_path, plan(), url)
        assert "hidden" not in str(error.value)
