"""The commands as a person uses them, from the text they print to the files they leave."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from research.runs.experiment import open_run
from research.runs.predictor import Predictor
from research.training.checkpoints import Checkpoints
from research.training.loggers import read_metrics

ROOT = Path(__file__).resolve().parents[2]
PHRASEBOOK, DIGITS = "configs/translation/phrasebook.py:tiny", "configs/vision/digits.py:tiny"
SHAKESPEARE = "configs/language/shakespeare.py:tiny"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_text("To be, or not to be, that is the question:\n" * 40)
    return path


def test_training_prints_five_translations_and_draws_attention(run, tmp_path):
    folder = tmp_path / "run"
    done = run("train", f"--config={PHRASEBOOK}", f"--workdir={folder}")
    assert done.code == 0, done.stderr
    assert done.stdout.count("\n  -> ") == 5
    maps = sorted(path.name for path in (folder / "attention").iterdir())
    assert "decoder_layer_0_cross_attention.png" in maps and len(maps) == 3
    assert all(Image.open(folder / "attention" / name).size[0] > 300 for name in maps)
    layer = json.loads((folder / "attention.json").read_text())["layers"]["decoder/layer_0/cross_attention"]
    weights = np.array(layer["weights"])
    assert weights.shape == (2, len(layer["queries"]), len(layer["keys"]))
    np.testing.assert_allclose(weights.sum(-1), 1, atol=2e-3)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["data"]["test"]["examples"] == 20 and "jax" in manifest["starts"][0]["packages"]
    assert "experiments.train" in manifest["starts"][0]["command"]


def test_predict_from_arguments_standard_input_and_python(trained, run):
    folder = trained(PHRASEBOOK)
    answers = Predictor.open(folder).answer(["5 days", "January 5, 2024"])
    printed = run("predict", f"--workdir={folder}", "--format=jsonl", "5 days", "January 5, 2024")
    assert [json.loads(line) for line in printed.stdout.splitlines()] == answers
    piped = subprocess.run(
        [sys.executable, "-m", "experiments.predict", f"--workdir={folder}"],
        cwd=ROOT, input="5 days\n", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert piped.stdout == answers[0]["text"] + "\n"


def test_predict_images(trained, run, tmp_path):
    folder = trained(DIGITS)
    Image.fromarray(np.full((20, 20, 3), 200, np.uint8)).save(tmp_path / "grey.png")
    printed = run("predict", f"--workdir={folder}", "--format=jsonl", str(tmp_path / "grey.png"))
    answer = json.loads(printed.stdout)
    assert answer["label"] in "0123456789" and 0.1 <= answer["probability"] <= 1
    (array_answer,) = Predictor.open(folder).answer([np.full((8, 8, 1), 200, np.uint8)])
    assert array_answer["label"] == answer["label"]


def test_predict_continues_a_text(run, tmp_path, text):
    workdir = f"--workdir={tmp_path / 'run'}"
    assert run("train", f"--config={SHAKESPEARE}", workdir, f"--config.data.path={text}").code == 0
    printed = run("predict", workdir, "To be")
    assert printed.stdout.startswith("To be") and len(printed.stdout.strip("\n")) > 5


@pytest.mark.parametrize(("config", "shown"), [(PHRASEBOOK, "'source'"), (DIGITS, "'label'"), (SHAKESPEARE, "'text'")])
def test_inspect_shows_examples_and_a_batch(config, shown, run, text):
    extra = [f"--config.data.path={text}"] if config == SHAKESPEARE else []
    code, stdout, stderr = run("inspect", f"--config={config}", *extra)
    assert code == 0, stderr
    assert shown in stdout and "weight: float32 [8]" in stdout


def test_inspect_lists_all_examples_as_jsonl(run):
    printed = run("inspect", f"--config={PHRASEBOOK}", "--split=test", "--format=jsonl")
    rows = [json.loads(line) for line in printed.stdout.splitlines()]
    assert len(rows) == 20 and set(rows[0]) == {"source", "target"}


def logged(folder):
    rows = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def final_state(folder):
    experiment = open_run(folder)
    with Checkpoints(folder / "checkpoints", experiment.checkpoint, write=False) as checkpoints:
        step = checkpoints.steps()[-1]
        return step, jax.device_get(checkpoints.restore(experiment.run.abstract_state, step)[0])


@pytest.mark.parametrize("config", [PHRASEBOOK, DIGITS, SHAKESPEARE])
def test_kill_nine_and_the_same_command_give_the_same_bits(config, run, tmp_path, text):
    """The process is killed once steps are being logged, with saves every two steps in flight, then run again."""
    extra = [
        "--config.checkpoint.every.steps=2",
        "--config.training.duration.steps=60",
        "--config.training.evaluate_every.steps=12",
        "--config.training.log_every=1",
    ]
    extra += [f"--config.data.path={text}"] if config == SHAKESPEARE else []
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run("train", f"--config={config}", f"--workdir={whole}", *extra).code == 0
    command = [sys.executable, "-m", "experiments.train", f"--config={config}", f"--workdir={killed}", *extra]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stop_after = int(np.random.default_rng(len(config)).integers(5, 50))
    while process.poll() is None and len(read_metrics(killed / "metrics.jsonl")) < stop_after:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "results.json").exists()
    assert run("train", f"--config={config}", f"--workdir={killed}", *extra).code == 0
    assert logged(whole) == logged(killed)
    assert (whole / "results.json").read_text() == (killed / "results.json").read_text()
    (step, one), (other_step, other) = final_state(whole), final_state(killed)
    assert step == other_step == 60
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_eight_devices_train_the_same_model(trained, run, tmp_path):
    """The losses of 8 devices equal those of one, within what another order of summation explains."""
    eight = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = run("train", f"--config={DIGITS}", f"--workdir={tmp_path / 'eight'}", **eight)
    assert done.code == 0 and "on 8 x" in done.stdout
    for one, other in zip(logged(trained(DIGITS)), logged(tmp_path / "eight"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_the_mean_of_the_last_checkpoints_is_evaluated(run, tmp_path):
    folder = tmp_path / "run"
    extra = ["--config.checkpoint.average=2", "--config.checkpoint.every.steps=2"]
    assert run("train", f"--config={DIGITS}", f"--workdir={folder}", *extra).code == 0
    experiment = open_run(folder)
    with Checkpoints(folder / "checkpoints", experiment.checkpoint, write=False) as checkpoints:
        variables, step = experiment.variables(checkpoints)
        states = [checkpoints.restore(experiment.run.abstract_state, saved)[0] for saved in (4, 6)]
    assert step == 6
    kernels = [np.float64(state.ema["head"]["kernel"]) for state in states]
    assert (kernels[0] != kernels[1]).any()
    np.testing.assert_allclose(variables["params"]["head"]["kernel"], np.mean(kernels, axis=0), atol=1e-7)


def test_pretraining_without_labels_then_a_probe_and_fine_tuning(run, tmp_path):
    workdir = f"--workdir={tmp_path / 'rotation'}"
    assert run("train", "--config=configs/vision/rotation.py:tiny", workdir).code == 0
    for extra, name in (["--labels=0.5"], "probe"), (["--random"], "probe_random"):
        done = run("probe", workdir, *extra)
        assert done.code == 0, done.stderr
        stored = json.loads((tmp_path / "rotation" / f"{name}.json").read_text())
        assert {"linear", "neighbours", "5-shot"} < set(stored) and f"linear {stored['linear']:.4f}" in done.stdout
    spec = f"configs/vision/finetune.py:source={tmp_path / 'rotation'},labels=40,tiny"
    done = run("train", f"--config={spec}", f"--workdir={tmp_path / 'tuned'}", "--config.optimizer.learning_rate=0.0")
    assert done.code == 0, done.stderr
    (_, before), (_, after) = final_state(tmp_path / "rotation"), final_state(tmp_path / "tuned")
    jax.tree.map(np.testing.assert_array_equal, before.ema["encoder"], after.params["encoder"])
    assert before.params["head"]["kernel"].shape == (16, 4) and after.params["head"]["kernel"].shape == (16, 10)


def test_a_probe_of_an_image_tower_on_images_with_labels(run, tmp_path):
    """Half of the colours are near white, half near black: whatever the features are, a line parts them."""
    clip, photos = tmp_path / "clip", tmp_path / "photos"
    assert run("train", "--config=configs/multimodal/clip_scenes.py:tiny", f"--workdir={clip}").code == 0
    random = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 200)):
        (photos / name).mkdir(parents=True)
        for number in range(12):
            pixels = random.integers(low, low + 50, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(photos / name / f"{number}.png")
    data = [f"--config.data.path={photos}", f"--config.data.test_path={photos}", "--config.data.name=image_folder"]
    for extra, name in ([], "probe"), (["--random"], "probe_random"):
        done = run("probe", f"--workdir={clip}", *data, *extra)
        assert done.code == 0, done.stderr
        stored = json.loads((clip / f"{name}.json").read_text())
        assert stored["linear"] == 1 and set(stored["data"]) == {"train", "test"}
    without = run("probe", f"--workdir={clip}")
    assert without.code == 2 and "the data have no labels to fit a classifier to: give others with" in without.stderr
    other = run("probe", f"--workdir={clip}", "--config.model.width=3")
    assert other.code == 2 and "--config.model.width is a part of what was trained" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--labels=0"], "--labels 0.0 is not a fraction"),
        (["--labels=0.001"], "leaves 1 images of one class: use a larger share"),
    ],
)
def test_probes_that_make_no_sense(arguments, sentence, trained, run):
    done = run("probe", f"--workdir={trained(DIGITS)}", *arguments)
    assert done.code == 2 and sentence in done.stderr
