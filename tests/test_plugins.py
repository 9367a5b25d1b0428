"""A package of one's own, outside of the repository; and packages of others, of which nothing is run unasked."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from research import plugins
from research.config import choose
from research.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"`([\w/]+\.py)`[^`]*?```python\n(.*?)```", re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the files of the page."""
    folder = tmp_path_factory.mktemp("outside")
    files = dict(BLOCK.findall((ROOT / "docs/own_package.md").read_text(encoding="utf-8")))
    assert set(files) == {"mine/data.py", "mine/model.py", "mine/task.py", "points.py"}
    (folder / "mine").mkdir()
    (folder / "mine/__init__.py").write_text("")
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def command(folder: Path, name: str, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", f"experiments.{name}", *arguments]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def run(folder) -> Path:
    done = command(folder, "train", "--config=points.py", "--workdir=runs/points")
    assert done.returncode == 0, done.stderr
    return folder / "runs/points"


def test_the_page_works(folder, run):
    results = json.loads((run / "results.json").read_text())
    assert results["validation/accuracy"] > 0.9
    done = command(folder, "predict", "--workdir=runs/points", "--plugin=mine", "0.5,1", "0.5,-3")
    assert done.stdout == "above\nbelow\n", done.stderr
    done = command(folder, "predict", "--workdir=runs/points", "--plugin=mine", "a")
    assert done.stderr == "error: 'a' is not a point: write two numbers such as 0.5,-1\n"
    again = command(folder, "train", "--config=points.py", "--workdir=runs/points")
    assert "this run is complete" in again.stdout


def test_a_task_that_answers_nothing_is_trained_and_measured(folder):
    """The least that a task needs: rows, model_inputs and loss."""
    (folder / "least").mkdir()
    (folder / "least/__init__.py").write_text("")
    text = (folder / "mine/task.py").read_text()
    start, end = text.index("    def example("), text.index("    def rows(")
    (folder / "least/task.py").write_text(text[:start] + text[end : text.index("    def predict(")])
    config = (folder / "points.py").read_text().replace("mine.task", "least.task")
    (folder / "least.py").write_text(config)
    done = command(folder, "train", "--config=least.py", "--workdir=runs/least")
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    assert json.loads((folder / "runs/least/results.json").read_text())["validation/accuracy"] > 0.9
    plugins = ["--plugin=mine", "--plugin=least"]
    done = command(folder, "predict", "--workdir=runs/least", *plugins, "1,1")
    assert done.stderr == "error: Sides answers no inputs: give a run of another task\n"


@pytest.mark.parametrize("where", ["here", "in the run"])
@pytest.mark.parametrize("name", ["predict", "evaluate", "pictures", "probe", "report", "report --samples"])
def test_a_foreign_run_imports_nothing(run, tmp_path, name, where):
    """Its package lies in the current folder, and the current folder may be the run's own."""
    marker, foreign = tmp_path / "marker", tmp_path / "foreign"
    shutil.copytree(run, foreign)
    home = tmp_path if where == "here" else foreign
    (home / "mine").mkdir()
    (home / "mine/__init__.py").write_text(f"open({str(marker)!r}, 'w').close()")
    arguments = {"predict": ["1,1"], "report --samples": ["--samples"]}.get(name, [])
    folder = [str(foreign)] if name.startswith("report") else [f"--workdir={foreign}"]
    done = command(home, name.split()[0], *folder, *arguments)
    assert not marker.exists(), done.stderr
    assert done.returncode == (0 if name.startswith("report") else 2)
    if name != "report":
        assert "whose code would be run: if you trust it, add --plugin=mine" in done.stderr


def test_what_a_name_may_be(monkeypatch):
    monkeypatch.setattr(plugins, "_allowed", set())
    with pytest.raises(UserError, match="add --plugin=os"):
        choose({}, {"name": "os.path:join"}, "model")
    plugins.allow("os")
    plugins.allow("research")
    for name, sentence in [
        ("os.path:join", "is not a dataclass or Linen module"),
        ("os.nowhere:X", r"model\.name 'os\.nowhere:X' cannot be imported \(ModuleNotFoundError"),
        ("research.data.digits:Nothing", "cannot be imported \\(AttributeError"),
    ]:
        with pytest.raises(UserError, match=sentence):
            choose({}, {"name": name}, "model")
    assert choose({}, {"name": "research.data.digits:Digits", "train_size": 9}, "data").train_size == 9
    with pytest.raises(UserError, match="is not the name of a package"):
        plugins.allow("../x")
