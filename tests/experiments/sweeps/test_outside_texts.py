"""Texts and files that trials leave behind are data: short in tables, and never code."""

import ast
import json
import signal
from types import MappingProxyType

import pytest

from experiments.sweeps.compare import compare
from experiments.sweeps.database import sqlite_url
from experiments.sweeps.results import _config
from experiments.sweeps.worker import ending
from research.errors import UserError, one_line


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
