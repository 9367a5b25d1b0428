"""A command that is refused leaves the run's folder as it was, and a folder in which nothing was learnt takes any."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.conftest import ROOT

GROKKING, DIGITS = "configs/theory/grokking.py:tiny", "configs/vision/digits.py:tiny"
PHRASEBOOK, SHAKESPEARE = "configs/translation/phrasebook.py:tiny", "configs/language/shakespeare.py:tiny"


@pytest.fixture
def copy(trained, tmp_path: Path) -> Callable[[str], Path]:
    return lambda spec: shutil.copytree(trained(spec), tmp_path / "run")


def files_of(folder: Path) -> Mapping[str, bytes]:
    """All files except pages, which say when they were written."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "report.html"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("spec", "arguments", "words"),
    [
        (GROKKING, ["--config.training.duration.steps=12.5"], "must be int"),
        (GROKKING, ["--config.training.duration.steps=9000000000"], "training.duration.steps is 9000000000: use"),
        (PHRASEBOOK, ["--config.task.beam_size=0"], "task.beam_size is 0: use"),
    ],
)
def test_a_refused_command_changes_nothing(copy, run, spec: str, arguments: list[str], words: str):
    folder = copy(spec)
    before = files_of(folder)
    done = run("train", f"--config={spec}", f"--workdir={folder}", *arguments)
    assert done.code == 2 and words in done.stderr, done.stderr
    assert files_of(folder) == before


def test_moved_data_that_differ_are_refused_also_by_a_complete_run(run, tmp_path: Path):
    text = "To be, or not to be, that is the question:\n" * 40
    for name, content in {"a": text, "same": text, "other": text.replace("question", "noitseuq")}.items():
        (tmp_path / f"{name}.txt").write_text(content)
    folder = tmp_path / "run"
    arguments = [f"--config={SHAKESPEARE}", f"--workdir={folder}"]
    assert run("train", *arguments, f"--config.data.path={tmp_path}/a.txt").code == 0
    before = files_of(folder)
    for name, words in {"other": "the train data are not those that", "missing": "does not exist"}.items():
        done = run("train", *arguments, f"--config.data.path={tmp_path}/{name}.txt")
        assert done.code == 2 and words in done.stderr, done.stderr
        assert files_of(folder) == before
    done = run("train", *arguments, f"--config.data.path={tmp_path}/same.txt")
    assert done.code == 0 and "this run is complete" in done.stdout, done.stderr
    assert json.loads((folder / "config.json").read_text())["data"]["path"] == f"{tmp_path}/same.txt"


def test_the_corrected_command_takes_the_folder_of_a_refused_one(trained, run, tmp_path: Path):
    arguments = [f"--config={GROKKING}", f"--workdir={tmp_path / 'run'}"]
    wrong = (["--config.model.width=7"], ["--from=/nowhere"], ["--config.training.duration.steps=2.5"])
    for options in wrong:
        assert run("train", *arguments, *options).code == 2
    done = run("train", *arguments, f"--from={trained(GROKKING)}")
    assert done.code == 0, done.stderr
    done = run("train", *arguments)  # of which something was learnt
    assert done.code == 2 and "holds a run of another config" in done.stderr


def test_what_is_left_of_a_run_is_not_taken_for_a_refused_start(copy, run):
    """Its checkpoints and its log are gone, and its vocabulary may be all that is left of it."""
    folder = copy(PHRASEBOOK)
    for name in ("checkpoints", "tensorboard"):
        shutil.rmtree(folder / name)
    for name in ("metrics.jsonl", "results.json"):
        (folder / name).unlink()
    before = files_of(folder)
    done = run("train", f"--config={PHRASEBOOK}", f"--workdir={folder}", "--config.model.width=8")
    assert done.code == 2 and "holds a run of another config" in done.stderr, done.stderr
    assert files_of(folder) == before


def test_another_average_is_not_called_damage_and_nothing_is_lost(trained, run, tmp_path: Path):
    arguments = [f"--config={GROKKING}", f"--from={trained(GROKKING)}", "--whole", "--config.training.duration.steps=9"]
    done = run("train", *arguments, f"--workdir={tmp_path / 'a'}", "--config.training.ema=0.9")
    assert done.code == 2 and "training.ema it was trained with" in done.stderr, done.stderr
    done = run("train", *arguments, f"--workdir={tmp_path / 'b'}")
    assert done.code == 0 and "are lost" not in done.stderr, done.stderr


@pytest.mark.parametrize("name", ["attention", "evaluations", "tensorboard"])
def test_nothing_is_written_through_a_link_in_a_run(copy, run, tmp_path: Path, name: str):
    folder, secret = copy(DIGITS), tmp_path / "secret"
    secret.mkdir()
    shutil.rmtree(folder / name, ignore_errors=True)
    (folder / name).symlink_to(secret)
    commands = {
        "attention": ["pictures"],
        "evaluations": ["evaluate", "--name=x"],
        "tensorboard": ["train", f"--config={DIGITS}", "--config.training.duration.steps=9"],
    }
    done = run(*commands[name], f"--workdir={folder}")
    assert done.code == 2 and f"{name} leads out of its folder" in done.stderr, done.stderr
    assert not list(secret.iterdir())


def test_a_picture_replaces_a_link_and_not_what_it_leads_to(copy, run, tmp_path: Path):
    folder, secret = copy(GROKKING), tmp_path / "secret"
    secret.write_text("mine")
    (folder / "learning_curves.png").unlink(missing_ok=True)
    (folder / "learning_curves.png").symlink_to(secret)
    assert run("pictures", f"--workdir={folder}").code == 0
    assert secret.read_text() == "mine" and not (folder / "learning_curves.png").is_symlink()


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("'-1' is not a number from 0", ["evaluate", "--workdir=RUN", "--samples=-1"]),
        ("'-1' is not a number from 0", ["inspect", f"--config={GROKKING}", "--step=-1"]),
        ("--step=999 is beyond the run's", ["inspect", f"--config={GROKKING}", "--step=999"]),
        ("--audit reads all splits", ["inspect", f"--config={GROKKING}", "--audit", "--split=test"]),
        ("the data have no classes", ["evaluate", "--workdir=RUN", "--config.data.name=scan"]),
    ],
)
def test_numbers_and_options_without_a_meaning(trained, run, words: str, command: list[str]):
    done = run(*[argument.replace("RUN", str(trained(DIGITS))) for argument in command])
    assert done.code == 2 and words in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_arguments_that_are_not_text_and_outputs_that_are_full(trained):
    def start(*arguments: str | bytes, **options) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "experiments.predict", f"--workdir={trained(PHRASEBOOK)}", *arguments]
        return subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, **options)

    done = start(b"Freitag \xff", stdout=subprocess.PIPE)
    assert done.returncode == 2 and b"is not utf-8 text: set PYTHONUTF8=1" in done.stderr, done.stderr
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            done = start("Friday", stdout=full)
        assert done.returncode == 2 and b"No space left on device" in done.stderr, done.stderr


def test_images_of_several_sizes_are_found_before_the_first_step(run, tmp_path: Path):
    import numpy as np
    from PIL import Image

    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(12):
            size = (28, 20) if (label, number) == ("dog", 7) else (24, 20)
            pixels = np.full((*size[::-1], 3), number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{number}.png")
    options = [f"--config.data.path={tmp_path / 'images'}", "--config.data.test_path=none", "--config.task.photo=none"]
    folder = tmp_path / "run"
    done = run("train", "--config=configs/vision/cifar10.py:tiny", f"--workdir={folder}", *options)
    assert done.code == 2 and "set data.size to resize them" in done.stderr, done.stderr
    assert not (folder / "metrics.jsonl").exists()


@pytest.mark.parametrize("spoil", ["digit", "empty"])
def test_results_that_are_not_those_measured_are_measured_again(copy, run, spoil: str):
    folder = copy(GROKKING)
    before = (folder / "results.json").read_text()
    digit = next(letter for letter in before if letter in "123456789")
    (folder / "results.json").write_text("{}" if spoil == "empty" else before.replace(digit, "0", 1))
    done = run("train", f"--config={GROKKING}", f"--workdir={folder}")
    assert done.code == 0 and "is not what was measured" in done.stderr, done.stderr
    assert (folder / "results.json").read_text() == before and (folder / "results.json.1").exists()
