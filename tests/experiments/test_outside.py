"""What comes from outside is checked before the first step, and no environment, reader or damage changes a result."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from research.config import load
from research.errors import UserError
from research.files import read_json
from research.reports.pictures import draw
from research.reports.training import train
from research.runs.experiment import open_run
from research.runs.predictor import Predictor
from research.training.loggers import read_metrics

ROOT = Path(__file__).resolve().parents[2]
DIGITS, PHRASEBOOK = "configs/vision/digits.py:tiny", "configs/translation/phrasebook.py:tiny"
SHAKESPEARE = "configs/language/shakespeare.py:tiny"
LINE = "To be, or not to be, that is the question:\n"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(LINE * 40)
    return path


@pytest.fixture
def pairs(tmp_path):
    """Overrides for `parallel_text` in which every split is ten lines; `pairs(split, lines)` writes another one."""
    folder = tmp_path / "pairs"
    folder.mkdir()

    def write(split: str, lines: list[str]) -> None:
        for side in ("source", "target"):
            (folder / f"{split}.{side}").write_text("".join(f"{line}\n" for line in lines))

    for split in ("train", "validation", "test"):
        write(split, ["one", "two", "three", "four", "five"] * 2)
    files = {f"data.{split}_{side}": str(folder / f"{split}.{side}") for split in ("train", "validation", "test")
             for side in ("source", "target")}  # fmt: skip
    config = tmp_path / "pairs.py"
    config.write_text(
        "from ml_collections import ConfigDict\nfrom configs.translation import phrasebook\n"
        "def get_config(arg=''):\n    config = phrasebook.get_config('tiny')\n"
        f"    config.data = ConfigDict({ {'name': 'parallel_text'} | {k[5:]: v for k, v in files.items()}!r})\n"
        "    return config\n"
    )
    return str(config), write


def test_a_reader_that_leaves_does_not_end_the_training(tmp_path):
    command = [sys.executable, "-m", "experiments.train", f"--config={DIGITS}", f"--workdir={tmp_path / 'run'}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == ("", 0)
    assert (tmp_path / "run" / "results.json").exists()


def test_texts_are_printed_in_any_locale(run):
    done = run("inspect", f"--config={PHRASEBOOK}", "--count=200", PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0")
    assert done.code == 0 and "Traceback" not in done.stderr
    command = [sys.executable, "-m", "experiments.inspect", f"--config={PHRASEBOOK}", "--count=200", "--split=train"]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    printed = subprocess.run(command, cwd=ROOT, env=ascii_only, capture_output=True, check=True).stdout
    assert "é" in printed.decode("utf-8")  # février, décembre


def test_results_do_not_depend_on_jax_variables(trained, run, tmp_path):
    odd = {"JAX_ENABLE_X64": "1", "JAX_NUMPY_DTYPE_PROMOTION": "strict", "JAX_DEFAULT_PRNG_IMPL": "rbg"}
    done = run("train", f"--config={DIGITS}", f"--workdir={tmp_path / 'run'}", **odd)
    assert done.code == 0, done.stderr
    assert read_json(tmp_path / "run" / "results.json") == read_json(trained(DIGITS) / "results.json")


@pytest.mark.parametrize("given", [b"caf\xe9\n", b"\xff\xfe5\0 \0d\0"])
def test_standard_input_that_is_not_utf8(given, trained):
    command = [sys.executable, "-m", "experiments.predict", f"--workdir={trained(PHRASEBOOK)}"]
    done = subprocess.run(command, cwd=ROOT, input=given, capture_output=True)
    (line,) = done.stderr.decode().splitlines()
    assert done.returncode == 2 and line.startswith("error: standard input") and "UTF-8" in line


def test_an_argument_that_is_not_utf8(trained):
    with pytest.raises(UserError, match="not UTF-8"):
        Predictor.open(trained(PHRASEBOOK)).answer([os.fsdecode(b"caf\xe9")])


def test_other_training_data_are_refused_and_other_test_data_are_said(text, pairs, tmp_path, capsys):
    folder = tmp_path / "run"
    train(SHAKESPEARE, folder, {"data.path": str(text)})
    (folder / "results.json").unlink()
    moved = text.rename(tmp_path / "moved.txt")
    text.write_text(LINE * 3 + LINE.replace("question", "question"[::-1]) + LINE * 36)  # as long, and as many
    with pytest.raises(UserError, match="train data are not those that"):
        train(SHAKESPEARE, folder, {"data.path": str(text)})
    before = (folder / "manifest.json").read_text()
    assert json.loads(before)["data"]["train"]["fingerprint"]
    shutil.copy(moved, text)
    train(SHAKESPEARE, folder, {"data.path": str(text)})
    assert len(read_json(folder / "manifest.json")["starts"]) == 2

    config, write = pairs
    train(config, tmp_path / "pairs_run", {})
    (tmp_path / "pairs_run" / "results.json").unlink()
    write("test", ["five", "four"])
    capsys.readouterr()
    results = train(config, tmp_path / "pairs_run", {})
    assert "the test data have changed" in capsys.readouterr().err and "test/loss" in results


@pytest.mark.parametrize("line", ["", "one " * 100])
def test_test_data_are_checked_before_the_first_step(line, pairs, tmp_path):
    config, write = pairs
    write("test", ["one", "two", line, "four"])
    with pytest.raises(UserError, match="input 3"):
        train(config, tmp_path / "run", {})
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    write("test", ["one", "two", "three", "four"])
    assert "test/bleu" in train(config, tmp_path / "run", {})  # the folder takes the mended data


def test_a_truncated_test_image_is_named_before_the_first_step(tmp_path):
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(6):
                pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / label / f"{number}.png")
    broken = tmp_path / "test" / "dog" / "4.png"
    broken.write_bytes(broken.read_bytes()[:-40])
    config = tmp_path / "config.py"
    config.write_text(
        "from ml_collections import ConfigDict\nfrom configs.vision import digits\n"
        "def get_config(arg=''):\n    config = digits.get_config('tiny')\n"
        f"    files = dict(path='{tmp_path}/train', test_path='{tmp_path}/test')\n"
        "    config.data = ConfigDict(dict(name='image_folder', **files))\n"
        "    return config\n"
    )
    with pytest.raises(UserError, match=r"dog/4\.png cannot be read"):
        train(str(config), tmp_path / "run", {})
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("spec", "override", "words"),
    [
        (SHAKESPEARE, "task.temperature=0.0", "task.temperature"),
        (SHAKESPEARE, "task.top_p=1.5", "task.top_p"),
        (SHAKESPEARE, "task.top_k=0", "task.top_k"),
        (PHRASEBOOK, "task.length_penalty=-1.0", "length_penalty"),
        (PHRASEBOOK, "task.beam_size=0", "task.beam_size"),
        (PHRASEBOOK, "task.beam_size=100000", "beam_size"),
    ],
)
def test_settings_of_answers_are_checked_before_the_first_step(spec, override, words, text, tmp_path):
    overrides = dict([override.split("=")]) | ({"data.path": str(text)} if spec == SHAKESPEARE else {})
    with pytest.raises(UserError, match=words):
        train(spec, tmp_path / "run", overrides)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_settings_of_answers_may_change_afterwards(trained, tmp_path, capsys):
    folder = shutil.copytree(trained(PHRASEBOOK), tmp_path / "run")
    before = read_json(folder / "results.json")
    again = train(PHRASEBOOK, folder, {"task.beam_size": "3", "task.extra_length": "2"})
    assert "results.json is now results.json.1" in capsys.readouterr().err
    assert read_json(folder / "results.json.1") == before and read_json(folder / "results.json") == again
    assert again["test/loss"] == before["test/loss"]  # nothing was learnt anew
    assert read_json(folder / "config.json")["task"]["beam_size"] == 3
    with pytest.raises(UserError, match=r"optimizer\.learning_rate"):
        train(PHRASEBOOK, folder, {"optimizer.learning_rate": "0.5"})


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("results.json", None),
        ("results.json", '{"test/loss": NaN}'),
        ("manifest.json", "null"),
        ("manifest.json", '{"starts": 5}'),
        ("batch.json", None),
        ("batch.json", '{"image": ["uint8", [1e400]]}'),
        ("classes.json", ""),
        ("classes.json", '["cat", 5]'),
    ],
)
def test_what_can_be_made_anew_is(file, content, trained, tmp_path, capsys):
    folder = shutil.copytree(trained(DIGITS), tmp_path / "run")
    expected = read_json(folder / "results.json")
    (folder / "results.json").unlink()
    (folder / file).unlink(missing_ok=True)
    (folder / file).mkdir() if content is None else (folder / file).write_text(content)
    assert train(DIGITS, folder, {}) == expected
    assert (folder / file).is_file() and json.loads((folder / file).read_text())
    assert f"{file} is now {file}.1" in capsys.readouterr().err
    assert (folder / f"{file}.1").is_dir() if content is None else (folder / f"{file}.1").read_text() == content


def test_the_config_of_a_foreign_run_is_not_a_way_to_its_readers_files(trained, tmp_path, text):
    folder = tmp_path / "foreign"
    train(SHAKESPEARE, folder, {"data.path": str(text)})
    text.rename(tmp_path / "elsewhere.txt")
    assert Predictor.open(folder).answer(["To be"]) and open_run(folder).source.paths() == (str(text),)
    draw(open_run(folder))  # neither needs the data
    (folder / "tokenizer.json").unlink()
    (tmp_path / "elsewhere.txt").rename(text)
    with pytest.raises(UserError, match=r"lacks what was made of its data"):
        Predictor.open(folder).answer(["To be"])


@pytest.mark.parametrize("config", ["theory/grokking", "vision/rotation", "vision/mae", "vision/packed"])
def test_every_task_answers(config, trained, tmp_path):
    folder = trained(f"configs/{config}.py:tiny")
    experiment = open_run(folder)
    example = experiment.source.examples("train")[0]
    item = example["source"] if "source" in example else tmp_path / "image.png"
    if "image" in example:
        pixels = example["image"]
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(item)
    (answer,) = Predictor.open(folder).answer([item])
    assert answer["text"] if "text" in answer else answer["label"]


def test_the_log_of_a_start_says_what_the_config_changed(trained):
    start = read_json(trained(DIGITS) / "manifest.json")["starts"][0]
    assert start["config"] == DIGITS and start["changes"] == []
    assert read_metrics(trained(DIGITS) / "metrics.jsonl") and load(DIGITS)
