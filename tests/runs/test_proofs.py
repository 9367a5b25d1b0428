"""`--overfit` and `--prove-resume`: they pass for what is right, and fail, with names, on what is made to be wrong."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from research.config import load
from research.errors import UserError
from research.runs import overfit as overfitting
from research.runs.experiment import build_experiment
from research.runs.overfit import overfit
from research.tasks.classification import Classification

DIGITS = "configs/vision/digits.py:tiny"


def test_eight_examples_are_learnt_by_heart(run):
    done = run("train", f"--config={DIGITS}", "--overfit=8")
    assert done.code == 0, done.stderr
    assert "8 examples are learnt by heart after" in done.stdout and "accuracy: " in done.stdout


def test_a_loss_that_does_not_look_at_its_images_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its gradient reaches the head's bias alone: eight labels of several classes cannot be told apart."""
    monkeypatch.setattr(overfitting, "STEPS", 60)

    inputs = Classification.model_inputs

    def model_inputs(self, batch):
        return tuple(jnp.zeros_like(array) for array in inputs(self, batch))

    monkeypatch.setattr(Classification, "model_inputs", model_inputs)
    experiment = build_experiment(load(DIGITS), tmp_path)
    with pytest.raises(UserError, match=r"8 examples were not learnt by heart in 60 steps: the loss is .*"):
        overfit(experiment, 8)


def test_a_part_of_the_model_without_a_gradient_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(overfitting, "STEPS", 20)
    loss = Classification.loss

    def cut(self, apply, batch):
        def stopped(*inputs, method=None):
            outputs, updates = apply(*inputs, method=method)
            return jax.tree.map(jax.lax.stop_gradient, outputs), updates

        return loss(self, stopped, batch)

    monkeypatch.setattr(Classification, "loss", cut)
    with pytest.raises(UserError, match=r"did not fall: .*loss.*without a gradient: .*kernel"):
        overfit(build_experiment(load(DIGITS), tmp_path), 8)


def test_a_run_that_resumes_is_proved(run):
    done = run("train", f"--config={DIGITS}", "--prove-resume=2")
    assert done.code == 0, done.stderr
    assert "no step and no array differs: 9 steps, 2 kills" in done.stdout


def test_a_run_that_does_not_is_found_by_its_first_step_and_array(run, tmp_path: Path):
    """A package whose model draws from the process's own random numbers."""
    (tmp_path / "careless.py").write_text(
        "import os\n"
        "import jax.numpy as jnp\n"
        "from research.tasks.classification import Classification\n"
        "class Careless(Classification):\n"
        "    def loss(self, apply, batch):\n"
        "        metrics, updates = super().loss(apply, batch)\n"
        "        noise = int.from_bytes(os.urandom(2)) / 65536\n"
        "        total, weight = metrics['loss']\n"
        "        return {**metrics, 'loss': (total * (1 + noise), weight)}, updates\n"
    )
    done = run(
        "train",
        f"--config={DIGITS}",
        "--config.task.name=careless:Careless",
        "--prove-resume=1",
        PYTHONPATH=str(tmp_path),
    )
    assert done.code == 2 and " differs after step 1 between a run that was killed 1 times" in done.stderr, done.stderr


@pytest.mark.parametrize("option", ["--workdir=run", "--from=run", "--whole"])
def test_what_a_check_does_not_look_at_is_refused(run, option: str):
    done = run("train", f"--config={DIGITS}", "--overfit=8", option)
    assert done.code == 2 and f"{option.partition('=')[0]} has no meaning beside --overfit" in done.stderr


@pytest.mark.parametrize("argument", ["--overfit=0", "--overfit=-1", "--prove-resume=0", "--prove-resume=-2"])
def test_numbers_that_make_no_sense(run, argument: str):
    done = run("train", f"--config={DIGITS}", argument)
    assert done.code == 2 and "use 1 or more" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("--config.training.accumulate=auto", "--prove-resume compares bits: set training.accumulate to a number"),
        (
            "--config.tracker.name=mlflow",
            "--prove-resume would leave records of its own: leave the section tracker out",
        ),
    ],
)
def test_what_a_proof_would_depend_on_or_leave_behind(run, setting: str, sentence: str):
    done = run("train", f"--config={DIGITS}", "--prove-resume=1", setting)
    assert done.code == 2 and sentence in done.stderr
