"""Runs that live longer: trained on in the same folder, and with data that lie elsewhere."""

import json
import shutil
from pathlib import Path

import pytest

from research.runs.experiment import open_run
from research.training.checkpoints import Checkpoints

GROKKING, SHAKESPEARE = "configs/theory/grokking.py:tiny", "configs/language/shakespeare.py:tiny"


@pytest.fixture(scope="module")
def trained_on(run, tmp_path_factory) -> Path:
    """A run of 6 steps that was trained on to 12."""
    folder = tmp_path_factory.mktemp("longer") / "run"
    for steps in (6, 12):
        done = run("train", f"--config={GROKKING}", f"--workdir={folder}", f"--config.training.duration.steps={steps}")
        assert done.code == 0, done.stderr
    return folder


def test_it_is_the_run_that_would_have_been_longer_from_the_start(trained_on: Path, run, tmp_path: Path):
    """Whose learning rate does not depend on the end, as grokking's."""
    arguments = [f"--config={GROKKING}", f"--workdir={tmp_path / 'run'}", "--config.training.duration.steps=12"]
    assert run("train", *arguments).code == 0
    results = [json.loads((folder / "results.json").read_text()) for folder in (trained_on, tmp_path / "run")]
    assert results[0] == results[1]
    assert saved(trained_on, 12) == saved(tmp_path / "run", 12)


def saved(folder: Path, step: int) -> dict:
    """The shape and the sum of bits of each array of a checkpoint."""
    with Checkpoints(folder / "checkpoints", open_run(folder).checkpoint, write=False) as checkpoints:
        return checkpoints.contents(step)


def test_both_legs_are_written_down(trained_on: Path, run):
    legs = json.loads((trained_on / "manifest.json").read_text())["legs"]
    assert [(leg["step"], leg["duration"]) for leg in legs] == [(0, {"steps": 6}), (6, {"steps": 12})]
    assert legs[0]["schedule"] == legs[1]["schedule"]
    assert (trained_on / "results.json.1").exists()  # of the first end
    assert run("report", str(trained_on)).code == 0
    page = (trained_on / "report.html").read_text()
    assert "from step 6" in page and "&quot;steps&quot;: 12" in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.training.duration.steps=8"], "training.duration.steps is 8 and was 12"),
        (["--config.training.duration={'epochs': 3}"], "another unit than training.duration.epochs"),
        (["--config.training.duration.steps=20", "--config.optimizer.learning_rate=0.5"], "optimizer.learning_rate is"),
        (["--config.training.duration.steps=20", "--config.schedule.warmup={'steps': 3}"], "schedule.warmup.steps is"),
    ],
)
def test_nothing_else_may_change(trained_on: Path, run, arguments: list[str], words: str):
    before = (trained_on / "config.json").read_text()
    done = run("train", f"--config={GROKKING}", f"--workdir={trained_on}", *arguments)
    assert done.code == 2 and words in done.stderr, done.stderr
    assert (trained_on / "config.json").read_text() == before


def test_data_that_have_moved_are_the_same_or_refused(run, tmp_path: Path):
    text = "To be, or not to be, that is the question:\n" * 40
    (tmp_path / "a.txt").write_text(text)
    arguments = [f"--config={SHAKESPEARE}", f"--workdir={tmp_path / 'run'}"]
    first = run("train", *arguments, f"--config.data.path={tmp_path}/a.txt", "--config.training.duration.steps=4")
    assert first.code == 0, first.stderr
    shutil.move(tmp_path / "a.txt", tmp_path / "b.txt")
    (tmp_path / "c.txt").write_text(text.replace("question", "noitseuq"))
    longer = "--config.training.duration.steps=6"
    changed = run("train", *arguments, f"--config.data.path={tmp_path}/c.txt", longer)
    assert changed.code == 2 and "the train data are not those that" in changed.stderr
    moved = run("train", *arguments, f"--config.data.path={tmp_path}/b.txt", longer)
    assert moved.code == 0, moved.stderr
    assert json.loads((tmp_path / "run/config.json").read_text())["data"]["path"] == f"{tmp_path}/b.txt"


def test_a_run_from_the_weights_or_from_the_whole_state_of_another(trained_on: Path, run, tmp_path: Path):
    """The whole state continues exactly where the other run was: what both train on is equal, bit for bit."""
    arguments = [f"--config={GROKKING}", "--config.training.duration.steps=15"]
    whole = [*arguments, f"--from={trained_on}", "--whole"]
    assert (done := run("train", *whole, f"--workdir={tmp_path / 'whole'}")).code == 0, done.stderr
    longer = shutil.copytree(trained_on, tmp_path / "longer")
    assert run("train", *arguments, f"--workdir={longer}").code == 0
    assert saved(tmp_path / "whole", 15) == saved(longer, 15)
    steps = [json.loads(line)["step"] for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert min(steps) > 12
    done = run("train", *arguments, f"--from={trained_on}", f"--workdir={tmp_path / 'weights'}")
    assert done.code == 0, done.stderr
    assert json.loads((tmp_path / "weights/config.json").read_text())["transfer"] == {
        "source": str(trained_on),
        "new": [],
        "whole": False,
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--whole"], "--whole takes over a run's whole state: say with --from=RUN which"),
        (["--from=RUN", "--whole", "--config.model.width=8"], "does not fit the config"),
        (["--from=RUN", "--whole", "--config.training.duration.steps=12"], "use a longer training.duration"),
        (["--from=RUN", "--config.model.width=8"], "use the model it was trained with"),
        (["--from=/nowhere"], "/nowhere cannot be read"),
    ],
)
def test_what_does_not_fit_is_a_sentence(trained_on: Path, run, tmp_path: Path, arguments: list[str], words: str):
    given = [argument.replace("RUN", str(trained_on)) for argument in arguments]
    done = run("train", f"--config={GROKKING}", f"--workdir={tmp_path / 'run'}", *given)
    assert done.code == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr
