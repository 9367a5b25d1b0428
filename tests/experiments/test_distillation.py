"""A student and its teacher, from config to checkpoint."""

import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import load, read_config
from research.errors import UserError
from research.parallel.sharding import by_path
from research.reports.training import train
from research.runs.experiment import build_experiment, open_run
from research.runs.predictor import Predictor
from research.training.checkpoints import Checkpoints

CONFIG = "configs/vision/distill.py"


@pytest.fixture(scope="module")
def teacher(run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "run"
    assert run("train", f"--config={CONFIG}:model=teacher,tiny", f"--workdir={folder}").code == 0
    return folder


@pytest.fixture(scope="module")
def student(teacher, run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("student") / "run"
    done = run("train", *student_of(teacher), f"--workdir={folder}")
    assert done.code == 0, done.stderr
    return folder


def student_of(teacher: Path | str) -> tuple[str, ...]:
    return f"--config={CONFIG}:teacher={teacher},tiny", "--config.task.cutmix=1.0"


def variables_of(folder: Path) -> dict[str, np.ndarray]:
    run = open_run(folder)
    with Checkpoints(folder / "checkpoints", run.checkpoint, write=False) as checkpoints:
        variables, _ = run.variables(checkpoints)
    return by_path(jax.device_get(variables))


def losses_of(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


def copied(student: Path, to: Path) -> Path:
    """The student's run as it was before its last steps."""
    shutil.copytree(student, to)
    (to / "results.json").unlink()
    shutil.rmtree(max((to / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name)))
    return to


def test_the_teachers_answers_are_its_own_about_the_same_mixed_images(teacher, student):
    experiment = open_run(student)
    batch = experiment.run.place(experiment.run.batches[2])
    images = np.float64(batch["image"]) / 255
    for row, (top, left, bottom, right) in enumerate(np.asarray(batch["box"])):
        own = np.float64(batch["image"][row]) / 255
        other = np.float64(batch["image"][row - 1]) / 255
        if bottom > top and right > left:
            images[row, top:bottom, left:right] = other[top:bottom, left:right]
        else:
            share = float(batch["mix"][row])
            images[row] = share * own + (1 - share) * other
    model = open_run(teacher).model
    with Checkpoints(teacher / "checkpoints", write=False) as checkpoints:
        variables, step = open_run(teacher).variables(checkpoints)
    logits = model.apply(variables, jnp.float32((images - 0.5) / 0.5))  # in evaluation: stored statistics, no dropout
    run = experiment.run
    assert run.step.distilled is not None and run.taught is not None
    teacher_of = run.step.distilled.teacher

    def apply(*inputs, method=None):
        return teacher_of.model.apply(run.taught, *inputs, method=method), {}

    (said, *_), _ = teacher_of.task.logits(apply, experiment.task.mixed(batch))
    np.testing.assert_allclose(said.values, logits, atol=1e-4)
    student_of_it = experiment.model.init(jax.random.key(0), jnp.float32(images))

    def learn(*inputs, method=None):
        return experiment.model.apply(student_of_it, *inputs, method=method), {}

    measured = run.step.distilled.loss
    metrics, _ = measured(experiment.task, experiment.model, learn, experiment.task.mixed(batch), run.taught, {})
    best = np.asarray(logits).argmax(-1)
    heads, _ = learn(jnp.float32((images - 0.5) / 0.5), method="all_heads")
    likelihood = -jax.nn.log_softmax(heads[-1])[np.arange(len(best)), best]
    assert float(metrics["distillation_loss"][0]) == pytest.approx(float(likelihood.sum()), rel=1e-4)
    assert json.loads((student / "teacher.json").read_text())["step"] == step == 6


def test_the_teacher_is_not_in_the_students_state(student):
    assert all(path.startswith("params/") for path in variables_of(student))
    assert not any("stage" in path for path in by_path(open_run(student).run.abstract_state))


def test_a_resumed_run_is_equal_to_the_bit(teacher, student, run, tmp_path):
    folder = copied(student, tmp_path / "run")
    done = run("train", *student_of(teacher), f"--workdir={folder}")
    assert done.code == 0 and "complete" not in done.stdout, done.stderr
    resumed, straight = variables_of(folder), variables_of(student)
    assert resumed.keys() == straight.keys() and all((resumed[path] == straight[path]).all() for path in straight)


def test_two_devices_learn_the_same(teacher, student, run, tmp_path):
    mesh = ("--config.mesh.data=1", "--config.mesh.fsdp=2")
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = run("train", *student_of(teacher), *mesh, f"--workdir={tmp_path / 'run'}", **flags)
    assert done.code == 0, done.stderr
    assert losses_of(tmp_path / "run") == pytest.approx(losses_of(student), rel=1e-4)
    assert (tmp_path / "run" / "teacher.json").read_text() == (student / "teacher.json").read_text()


def test_another_teacher_than_before_is_refused(student, tmp_path):
    folder = copied(student, tmp_path / "run")
    noted = json.loads((folder / "teacher.json").read_text())
    (folder / "teacher.json").write_text(json.dumps({**noted, "crc": 1}))
    with pytest.raises(
        UserError, match=r"distillation\.teacher has changed since .* began \(step 6 then, 6 now\): restore it"
    ):
        _ = open_run(folder).run


def test_teachers_that_cannot_teach(teacher, tmp_path):
    def run_with(path, **overrides):
        config = load(f"{CONFIG}:teacher={path},tiny", {name.replace("__", "."): v for name, v in overrides.items()})
        return build_experiment(config, tmp_path / "run").run

    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="nowhere holds no run: give the folder of one that was trained"):
        run_with("nowhere")
    stored = teacher / "classes.json"
    names = stored.read_text()
    stored.write_text(json.dumps([*json.loads(names)[:9], "ten"]))
    try:
        with pytest.raises(UserError, match=r"classes\.json is not what the checkpoint of step 6 was trained with"):
            run_with(teacher)
    finally:
        stored.write_text(names)
    assert os.listdir(tmp_path / "run") and not (tmp_path / "run" / "teacher.json").exists()


def test_copies_of_sequences_are_refused(tmp_path):
    config = load("configs/translation/phrasebook.py:tiny", {"training.repeats": "3"})
    with pytest.raises(UserError, match=r"training\.repeats 3 is for images alone"):
        _ = build_experiment(config, tmp_path).run
    config = load("configs/vision/digits.py:tiny", {"training.repeats": "4"})
    batch = build_experiment(config, tmp_path).run.batches[0]
    assert (batch["label"].reshape(4, 2) == batch["label"][:2]).all() and len(np.unique(batch["mix"])) == 8


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> tuple[Path, Path, Path]:
    """Messages, a teacher of texts with two layers, and a student of one that learns from its layers too."""
    root = tmp_path_factory.mktemp("texts")
    (root / "sms.tsv").write_text("".join(f"{'spam' if n % 4 else 'ham'}\tcall {n} times\n" for n in range(300)))
    wide = {"model.num_layers": "2", "model.width": "24", "task.tokenizer.vocab_size": "60"}
    train(f"configs/language/sms_spam.py:file={root / 'sms.tsv'},tiny", root / "teacher", EVERY_TWO | wide)
    train(text_student(root), root / "student", EVERY_TWO | INSIDE)
    return root, root / "teacher", root / "student"


EVERY_TWO = {name: "{'steps': 2}" for name in ("training.evaluate_every", "checkpoint.every")}
EVERY_TWO |= {"training.duration": "{'steps': 4}", "training.log_every": "1", "checkpoint.best": "validation/loss"}
EVERY_TWO |= {"checkpoint.mode": "min"}
INSIDE = {"distillation.attention": "0.1", "training.ema": "0.9", "training.accumulate": "2"}


def text_student(root: Path) -> str:
    return f"configs/language/distill.py:file={root / 'sms.tsv'},teacher={root / 'teacher'},tiny"


def test_a_student_learns_from_the_layers_of_its_teacher_and_is_opened_without_it(texts, tmp_path):
    root, teacher, student = texts
    assert json.loads((student / "teacher.json").read_text())["maps"] == {"encoder": [16, 24]}
    logged = [json.loads(line) for line in (student / "metrics.jsonl").read_text().splitlines()]
    parts = ("loss", "distillation_loss", "hidden_loss", "attention_loss")
    assert all(np.isfinite(line[f"train/{name}"]) for line in logged if "train/loss" in line for name in parts)
    assert not any("distillation" in name for line in logged for name in line if name.startswith("validation"))
    with Checkpoints(student / "checkpoints", write=False) as checkpoints:
        state, _ = checkpoints.restore(open_run(student).run.abstract_state, 4)
        first = open_run(student).run.create_state()
    before, after = (np.asarray(each.params["hidden_maps"]["encoder"]["kernel"]) for each in (first, state))
    moved = np.abs(after - before)
    assert moved.shape == (16, 24) and moved.max() > 0
    teacher.rename(root / "away")
    try:
        assert not any("hidden_maps" in path for path in variables_of(student))
        answers = Predictor.open(student).answer(["call 7 times"])
        assert answers[0]["label"] in ("ham", "spam")
    finally:
        (root / "away").rename(teacher)
    config = read_config(student / "config.json")
    del config["distillation"]
    config.transfer = {"source": str(student), "new": ()}
    build_experiment(config, tmp_path).run.create_state()


def test_a_student_of_texts_that_was_stopped_ends_with_the_same_bits(texts, tmp_path):
    root, _, student = texts
    folder = copied(student, tmp_path / "run")
    train(text_student(root), folder, EVERY_TWO | INSIDE)
    states = []
    for each in (student, folder):
        with Checkpoints(each / "checkpoints", write=False) as checkpoints:
            states.append(by_path(jax.device_get(checkpoints.restore(open_run(each).run.abstract_state, 4)[0])))
    assert all((states[0][path] == states[1][path]).all() for path in states[0])


def test_another_vocabulary_or_more_layers_than_the_teachers_are_refused(texts, tmp_path):
    root, _, _ = texts
    tmp_path.joinpath("other").mkdir()
    tokenizer = "{'kind': 'word', 'vocab_size': 300}"
    config = load(text_student(root), EVERY_TWO | {"task.tokenizer": tokenizer})
    with pytest.raises(UserError, match=r"has another vocabulary: take it by task.tokenizer={'path'"):
        _ = build_experiment(config, tmp_path / "other").run
    config = load(text_student(root), EVERY_TWO | {"model.num_layers": "3"})
    with pytest.raises(UserError, match=r"the model has 3 layers and its teacher 2"):
        _ = build_experiment(config, tmp_path).run
    assert not (tmp_path / "teacher.json").exists()
