"""What is chosen at answer time: options, checkpoints, other data; what is kept of it, and what bad input gets."""

import gzip
import json
import shutil
from pathlib import Path

import pytest

from research.data.tokenizer import BOS, EOS
from research.runs.predictor import Predictor

PHRASEBOOK, DIGITS = "configs/translation/phrasebook.py:tiny", "configs/vision/digits.py:tiny"


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory) -> Path:
    """A copy of a trained run, which may be written to."""
    return Path(shutil.copytree(trained(PHRASEBOOK), tmp_path_factory.mktemp("copy") / "run"))


def test_predict_takes_options_of_the_task(folder: Path, run):
    printed = run("predict", f"--workdir={folder}", "--set", "beam_size=2", "--set=extra_length=0", "5 days")
    assert printed.code == 0, printed.stderr
    predictor = Predictor.open(folder)
    (answer,) = predictor.answer(["5 days"], beam_size=2, extra_length=0)
    assert printed.stdout == answer["text"] + "\n"
    source = predictor.task.vocabulary.encode("5 days")
    assert (
        len(predictor.task.vocabulary.encode(answer["text"])) <= len(source) + 1
    )  # with its end marker, and none extra
    assert {BOS, EOS}.isdisjoint(source)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set=beam=2"], "beam is not an option of answers: use one of beam_size, length_penalty, extra_length"),
        (["--set=beam_size=0"], "beam_size is 0: use 1 or more"),
        (["--set=beam_size=many"], "beam_size must be int, got 'many'"),
        (["--step=999"], "no checkpoint of step 999 that can be read: use "),
        (["--best"], "has no best checkpoint, as the config's checkpoint.best is None: use --last, or --step"),
    ],
)
@pytest.mark.parametrize("command", ["predict", "evaluate", "pictures"])
def test_bad_choices_are_sentences(folder: Path, run, command: str, arguments: list[str], words: str):
    done = run(command, f"--workdir={folder}", *arguments, *(["5 days"] if command != "evaluate" else []))
    assert done.code == 2 and words in done.stderr and done.stderr.count("\n") == 1


def test_help_of_a_run_lists_its_options(folder: Path, trained, run):
    words = " ".join(run("predict", f"--workdir={folder}", "--help").stdout.split())
    assert "beam_size (int, 1)" in words and "length_penalty (float, " in words
    words = " ".join(run("predict", f"--workdir={trained(DIGITS)}", "--help").stdout.split())
    assert "for --set, with their types and values: none" in words
    assert run("predict", "--workdir=/nowhere", "--help").code == 0


def test_an_option_of_a_task_without_any(trained, run):
    done = run("evaluate", f"--workdir={trained(DIGITS)}", "--set=beam_size=2")
    assert done.code == 2 and "beam_size is not an option of answers: this run's have none" in done.stderr


def test_another_checkpoint_is_evaluated(folder: Path, run):
    steps = sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())
    last = run("evaluate", f"--workdir={folder}", "--last", "--splits=validation", "--samples=0")
    assert f"evaluating validation at step {steps[-1]}" in last.stdout
    first = run("evaluate", f"--workdir={folder}", f"--step={steps[0]}", "--splits=validation", "--samples=0")
    assert f"evaluating validation at step {steps[0]}" in first.stdout


def test_a_second_test_set_is_kept_under_its_own_name(trained_pairs: Path, run, tmp_path: Path):
    folder, data = trained_pairs, tmp_path
    (data / "other.de").write_text("ein mann mit 3 hunden\n" * 3)
    (data / "other.en").write_text("a man with 3 dogs\n" * 3)
    before = json.loads((folder / "results.json").read_text())
    other = [f"--config.data.test_source={data}/other.en", f"--config.data.test_target={data}/other.de"]
    arguments = [f"--workdir={folder}", "--splits=test", "--samples=0", "--name=other"]
    done = run("evaluate", *arguments, *other)
    assert done.code == 0, done.stderr
    assert f"kept in {folder}/evaluations/other.json" in done.stdout
    results = json.loads((folder / "evaluations/other.json").read_text())["results"]
    assert results.keys() == {name for name in before if name.startswith("test/")} and results != before
    assert json.loads((folder / "results.json").read_text()) == before
    assert run("evaluate", *arguments, *other).code == 0  # measured again
    assert run("report", str(folder)).code == 0
    section = (folder / "report.html").read_text().partition("Other evaluations</h2>")[2].partition("</section>")[0]
    assert ">other</th>" in section and f"{results['test/loss']:.5g}" in section
    taken = run("evaluate", *arguments, *other, "--set=beam_size=2")
    assert taken.code == 2 and "has results of another choice" in taken.stderr and "use another --name" in taken.stderr
    for name in ("../x", "", "a/b", ".hidden", "x" * 101):
        refused = run("evaluate", *arguments[:-1], f"--name={name}", *other)
        assert refused.code == 2 and "is not a name for a file" in refused.stderr and not refused.stdout, refused.stderr
    other_kind = run("evaluate", *arguments, "--config.data={'name': 'digits'}")
    assert other_kind.code == 2 and other_kind.stderr.count("\n") == 1, other_kind.stderr
    trained_part = run("evaluate", *arguments, "--config.model.width=3")
    assert trained_part.code == 2 and "only --config.data... can be others" in trained_part.stderr


@pytest.fixture
def trained_pairs(tmp_path_factory, run) -> Path:
    """The folder of a run on files."""
    data = tmp_path_factory.mktemp("pairs")
    for split in ("train", "valid", "test.2016"):
        for language, line in (("en", "a man with {} dogs"), ("de", "ein mann mit {} hunden")):
            lines = "\n".join(line.format(number) for number in range(30))
            (data / f"{split}.{language}.gz").write_bytes(gzip.compress(lines.encode()))
    done = run("train", f"--config=configs/translation/multi30k.py:folder={data},tiny", f"--workdir={data / 'run'}")
    assert done.code == 0, done.stderr
    return data / "run"
