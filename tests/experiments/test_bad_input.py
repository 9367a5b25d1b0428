"""What a person gets wrong ends with exit code 2 and one sentence that says what to change."""

import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from research.training.checkpoints import Checkpoints

DIGITS, PHRASEBOOK = "configs/vision/digits.py:tiny", "configs/translation/phrasebook.py:tiny"
SHAKESPEARE = "configs/language/shakespeare.py:tiny"


@pytest.fixture
def fails(run, tmp_path):
    """`fails(words, *arguments)`: the train command must end with one error line that contains the words."""

    def check(words: str, *arguments: str, workdir=None, command="train", **environment: str) -> str:
        folder = workdir or tmp_path / "run"
        code, _, stderr = run(command, *arguments, f"--workdir={folder}", **environment)
        lines = stderr.strip().splitlines()
        assert code == 2, stderr
        assert len(lines) == 1 and lines[0].startswith("error: "), stderr
        assert words in lines[0]
        return lines[0]

    return check


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("--config.optimizer.lerning_rate=1e-3", "did you mean learning_rate?"),
        ("--config.optimiser.learning_rate=1e-3", "did you mean optimizer?"),
        ("--config.model.num_layers=two", "model.num_layers must be int, got 'two'"),
        ("--config.optimizer.learning_rate=nan", "optimizer.learning_rate must be float"),
        ("--config.model.vocab_size=7", "model.vocab_size is not a field of ViT"),
        ("--config.model.num_classes=7", "model.num_classes is 7 but must be 10"),
        ("--config.model.num_heads=3", "width 16 is not divisible by num_heads 3"),
        ("--config.model.patch_size=3", "not divisible into patches of 3"),
        ("--config.model.name=vitt", "did you mean vit?"),
        ("--config.training.duration.epochs=1", "steps and epochs"),
        ("--config.training.precision=bf16", "training.precision 'bf16' is unknown"),
        ("--config.optimizer.decay_on=colonel", "matches no parameter"),
        ("--confg.seed=1", "is not an option of this command"),
        ("--config.mesh.data=3", "mesh.data"),
    ],
)
def test_settings(override, words, fails):
    fails(words, f"--config={DIGITS}", override)


def test_files_and_arguments(fails):
    fails("there is no config file configs/vision/digit.py", "--config=configs/vision/digit.py")
    fails("'tinny' is not an argument of this config: did you mean tiny?", "--config=configs/vision/digits.py:tinny")
    fails("is not in CLDR", f"--config={PHRASEBOOK}", "--config.data.language=xx-nowhere")


def test_batches_that_do_not_divide_over_the_devices(fails):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    fails("batch_size 30 is not divisible by the 8-way data axis: use 24 or 32", f"--config={DIGITS}",
          "--config.training.batch_size=30", **flags)  # fmt: skip


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "does not exist"), (b"", "is empty"), (b"caf\xe9 \xff\n", "UTF-8"), (b"too short", "task.length 16")],
)
def test_texts(content, words, fails, tmp_path):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    fails(words, f"--config={SHAKESPEARE}", f"--config.data.path={path}", "--config.data.validation_fraction=0.0")


def test_parallel_files_of_different_length(fails, tmp_path):
    (tmp_path / "a.en").write_text("one\ntwo\n")
    (tmp_path / "a.fr").write_text("un\n")
    config = tmp_path / "config.py"
    config.write_text(
        textwrap.dedent(f"""
        from ml_collections import ConfigDict
        from configs.translation import phrasebook
        def get_config(arg=""):
            config = phrasebook.get_config("tiny")
            files = dict(train_source="{tmp_path}/a.en", train_target="{tmp_path}/a.fr")
            config.data = ConfigDict(dict(name="parallel_text", **files))
            return config
        """)
    )
    fails("2 lines", f"--config={config}")


def test_a_corrupt_image_is_named(fails, tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(12):
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{number}.png")
    for number in range(12):
        (tmp_path / "images" / "cat" / f"{number}.png").write_bytes(b"\x89PNG broken")
    config = tmp_path / "config.py"
    config.write_text(
        textwrap.dedent(f"""
        from ml_collections import ConfigDict
        from configs.vision import digits
        def get_config(arg=""):
            config = digits.get_config("tiny")
            config.data = ConfigDict(dict(name="image_folder", path="{tmp_path}/images"))
            return config
        """)
    )
    fails(".png cannot be read as an image", f"--config={config}")


def test_a_workdir_of_another_experiment_or_with_other_files(fails, trained, tmp_path):
    folder = trained(DIGITS)
    before = (folder / "results.json").read_text()
    fails("optimizer.learning_rate is 0.002 there and 0.5 here", f"--config={DIGITS}",
          "--config.optimizer.learning_rate=0.5", workdir=folder)  # fmt: skip
    fails("holds a run of another config", f"--config={PHRASEBOOK}", workdir=folder)
    assert (folder / "results.json").read_text() == before
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    fails("holds other files and no run", f"--config={DIGITS}", workdir=tmp_path / "thesis")
    fails("holds no run", workdir=tmp_path / "thesis", command="evaluate")


def test_a_damaged_vocabulary_and_a_checkpoint_that_does_not_fit(fails, trained, run, tmp_path):
    folder = shutil.copytree(trained(PHRASEBOOK), tmp_path / "run")
    (folder / "results.json").unlink()
    vocabulary = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(vocabulary[:100])
    fails("cannot be read as a tokenizer", f"--config={PHRASEBOOK}")
    (folder / "tokenizer.json").write_text(vocabulary)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"mlp_width": 32', '"mlp_width": 48'))
    fails("does not fit the config: params/", f"--config={PHRASEBOOK}", "--config.model.mlp_width=48")
    (folder / "config.json").write_text(config)
    assert run("train", f"--config={PHRASEBOOK}", f"--workdir={folder}").code == 0
    assert "this run is complete" in run("train", f"--config={PHRASEBOOK}", f"--workdir={folder}").stdout


def test_evaluating_before_the_first_checkpoint(fails, trained, tmp_path):
    folder = shutil.copytree(trained(PHRASEBOOK), tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    fails("holds no checkpoint yet: train it first", command="evaluate")
    fails("holds no checkpoint yet: train it first", "hello", command="predict")


@pytest.mark.parametrize(
    ("text", "words"), [("", "input 1 is empty"), ("1 2 3 4 5 6 7 8 9 " * 5, "split the text, or train with a larger")]
)
def test_inputs_that_cannot_be_translated(text, words, fails, trained):
    fails(words, text, command="predict", workdir=trained(PHRASEBOOK))


def test_a_diverging_run_stops(fails):
    error = fails("not finite at step", f"--config={DIGITS}", "--config.optimizer.name=sgd",
                  "--config.optimizer.learning_rate=1e30", "--config.optimizer.clip_norm=none")  # fmt: skip
    assert "training examples" in error and "optimizer.learning_rate" in error


def test_a_folder_that_cannot_be_written(fails, tmp_path):
    (tmp_path / "file").write_text("")
    fails("cannot be written", f"--config={DIGITS}", workdir=tmp_path / "file" / "run")


def test_a_full_disk_loses_no_checkpoint(tmp_path):
    """A limit on the size of files stands in for a full disk: the write fails, with another error number."""
    program = textwrap.dedent("""
        import pathlib, resource, sys
        from research.runs.command import run_command
        from research.training.checkpoints import CheckpointPolicy, Checkpoints
        from research.training.durations import Duration
        from research.training.loop import fit
        from tests.training.toy import make_run
        import argparse
        folder = pathlib.Path(sys.argv.pop())
        def train(arguments):
            policy = CheckpointPolicy(every=Duration(steps=5), keep=100)
            class FillsUp(Checkpoints):
                def save(self, state, step, *rest, kept):
                    if step == 15:
                        self.wait()
                        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
                    super().save(state, step, *rest, kept=kept)
            with FillsUp(folder / "checkpoints", policy) as checkpoints:
                fit(make_run(folder, steps=40), checkpoints)
        run_command(train, argparse.ArgumentParser())
    """)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, env=os.environ, timeout=300
    )
    lines = done.stderr.strip().splitlines()
    # Threads of the checkpointing library may still be failing while the process ends: the last line is what counts.
    assert done.returncode == 2 and lines[-1].startswith("error: "), done.stderr
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [5, 10]
