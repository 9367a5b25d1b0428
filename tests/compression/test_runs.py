"""Candidates from start to end: runs that every command opens, resumed after a kill, measured against goals."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.compression.compress import compress
from research.compression.frontier import Goals
from research.config import load, read_config
from research.errors import UserError
from research.parallel.sharding import by_path
from research.reports.training import train, train_config
from research.runs.experiment import build_experiment, open_run, trained
from research.runs.exported import export_model
from research.runs.predictor import Predictor
from research.training.checkpoints import Checkpoints
from research.training.interruptions import Interrupted

DIGITS = "configs/vision/digits.py:tiny"
NAMES = ("bf16", "heads0.5-neurons0.5", "layers0.5-int8")
ANY = Goals(loss=100)
STEPS = {"steps": 4}
IMAGE = np.random.default_rng(0).integers(0, 256, (8, 8, 1), np.uint8)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "run"
    train(DIGITS, folder, {"model.num_layers": "2"})
    return folder


@pytest.fixture(scope="module")
def small(original, tmp_path_factory) -> Path:
    """The folder of candidates, which tests only read."""
    folder = tmp_path_factory.mktemp("small") / "runs"
    best, sentence = compress(original, folder, ANY, train_config, names=NAMES, duration=STEPS)
    assert best.name == "layers0.5-int8" and sentence.startswith("the smallest that meets the goals: layers0.5-int8,")
    return folder


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    return by_path(jax.device_get(trained(folder)[1]["params"]))


def kept_of(folder: Path) -> dict[str, np.ndarray]:
    return by_path(jax.device_get(Predictor.open(folder).kept["params"]))


def test_what_is_left_is_really_smaller(original, small):
    assert {path.name for path in small.iterdir() if path.is_dir()} == {*NAMES, "layers0.5"}
    heads = small / "heads0.5-neurons0.5"
    model = read_config(heads / "config.json").model
    assert (model.num_heads, model.head_size, model.mlp_width, model.num_layers) == (1, 8, 16, 2)
    arrays = arrays_of(heads)
    assert arrays["encoder/layer_1/self_attention/out/kernel"].shape == (1, 8, 16)
    assert arrays["encoder/layer_1/feed_forward/down/kernel"].shape == (16, 16)
    assert read_config(small / "layers0.5" / "config.json").model.num_layers == 1
    assert not any("layer_1" in path for path in arrays_of(small / "layers0.5"))
    found = json.loads((small / "frontier.json").read_text())
    sizes = {row["name"]: row["relative"]["size"] for row in found["models"]}
    assert sizes["bf16"] == 0.5 and sizes["layers0.5-int8"] < sizes["layers0.5"] / 2 < sizes["heads0.5-neurons0.5"] < 1
    assert found["metric"] == "test/accuracy" and next(iter(sizes)) == "original"
    for name in (*NAMES, "layers0.5"):
        assert {"config.json", "manifest.json", "compressed.json", "checkpoints", "classes.json"} <= {
            path.name for path in (small / name).iterdir()
        }
    assert (small / "frontier.png").stat().st_size > 10_000 and "| bf16 |" in (small / "frontier.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_those_of_a_hand_made_forward_pass(small, name):
    """int8 times its scale in float64, bfloat16 as the numbers that it holds."""
    folder = small / name
    kept = kept_of(folder)
    arrays = {path: np.float64(array) for path, array in kept.items() if not path.endswith(("/int8", "kernel/scale"))}
    for path, array in kept.items():
        if path.endswith("/int8"):
            assert array.dtype == np.int8
            arrays[path.removesuffix("/int8")] = np.float64(array) * kept[path.removesuffix("int8") + "scale"]
            arrays.pop(path.removesuffix("int8") + "scale", None)
    assert any(path.endswith("/int8") for path in kept) == name.endswith("int8")
    experiment = open_run(folder)
    task, tree = experiment.task, trained(folder)[1]["params"]
    assert by_path(tree).keys() == arrays.keys()
    params = jax.tree.unflatten(jax.tree.structure(tree), [jnp.float32(arrays[path]) for path in by_path(tree)])
    batch = task.questions([task.example(IMAGE)]).first()
    logits = np.float64(experiment.model.apply({"params": params}, *map(jnp.asarray, task.model_inputs(batch))))[0]
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    (answer,) = Predictor.open(folder).answer([IMAGE])
    assert answer["label"] == str(probabilities.argmax())
    assert answer["probability"] == pytest.approx(probabilities.max(), abs=1e-4)


def test_what_was_killed_resumes_to_the_same_bits_and_what_is_finished_stays(original, small, tmp_path):
    """A kill before the first step of one candidate, and one between the last two checkpoints of another."""
    began = []

    def killed(config, folder):
        began.append(folder.name)
        raise Interrupted("stopped")

    output = tmp_path / "runs"
    again = {"names": NAMES, "duration": STEPS}
    with pytest.raises(Interrupted):
        compress(original, output, ANY, killed, **again)
    assert began == ["heads0.5-neurons0.5"] and (output / "bf16").exists() and not (output / "frontier.json").exists()
    shutil.copytree(small / "layers0.5", output / "layers0.5")
    (output / "layers0.5" / "results.json").unlink()
    steps = sorted((output / "layers0.5" / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    assert [path.name for path in steps] == ["3", "4"]
    shutil.rmtree(steps[-1])
    before = (output / "bf16" / "config.json").stat().st_mtime_ns
    compress(original, output, ANY, train_config, **again)
    for name in (*NAMES, "layers0.5"):
        first, second = kept_of(small / name), kept_of(output / name)
        assert first.keys() == second.keys() and all(np.array_equal(first[path], second[path]) for path in first), name
    assert (output / "bf16" / "config.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="holds candidates of another duration: use another --output"):
        compress(original, output, ANY, train_config, names=NAMES)


def test_training_begins_with_what_was_left(original, tmp_path):
    def nothing(config, folder):
        raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        compress(original, tmp_path / "runs", ANY, nothing, names=("layers0.5",))
    folder = tmp_path / "runs" / "layers0.5"
    whole, left = arrays_of(original), arrays_of(folder)
    assert len(left) < len(whole) and all(np.array_equal(left[path], whole[path]) for path in left)
    config = read_config(folder / "config.json")
    assert dict(config.training.duration) == {"steps": 2} and dict(config.schedule.warmup) == {"steps": 1}
    with Checkpoints(folder / "checkpoints", open_run(folder).checkpoint, write=False) as checkpoints:
        state, _ = checkpoints.restore(build_experiment(config, folder).run.abstract_state, 0)
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (state.params, state.ema)), strict=True))


def test_goals_that_cannot_be_met_end_with_1(original, small, run):
    arguments = [f"--workdir={original}", f"--output={small}", "--candidates", *NAMES, '--duration={"steps": 4}']
    done = run("compress", *arguments, "--latency=0.0001x", "--loss-at-most=100")
    assert done.code == 1, done.stderr
    assert "no candidate has latency 0.0001x and at most 100 points lost; the best found is " in done.stderr
    assert done.stderr.count("\n") == 1
    wrong = run("compress", *arguments, "--size=half")
    assert wrong.code == 2 and "--size=half is not a fraction of the original's" in wrong.stderr


def test_weights_in_fewer_bits_are_for_answers(small, tmp_path):
    with pytest.raises(UserError, match="keeps int8 weights already: give the run that they were made of"):
        compress(small / "layers0.5-int8", tmp_path / "runs", ANY, train_config)
    config = load(DIGITS)
    config.weights = {"name": "int8"}
    with pytest.raises(UserError, match="weights int8 are for answers: train without them"):
        train_config(config, tmp_path / "trained")
    config.weights = {"name": "int4"}
    with pytest.raises(UserError, match=r"weights[.]name is 'int4': did you mean int8"):
        build_experiment(config, tmp_path)


def test_what_a_published_model_does_not_have_is_not_exported(small, tmp_path):
    with pytest.raises(UserError, match="head_size"):
        export_model(small / "heads0.5-neurons0.5", tmp_path / "published")


def test_what_cannot_be_made_is_one_sentence(original, small, tmp_path):
    for names, sentence in (
        (("rank0.5",), "model vit has no embedding_width: leave rank out"),
        (("layers0.9",), "layers0.9 leaves the model as it is: give smaller fractions"),
    ):
        with pytest.raises(UserError, match=sentence):
            compress(original, tmp_path / names[0], ANY, train_config, names=names)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files: give --output a new or empty folder"):
        compress(original, tmp_path / "full", ANY, train_config)
    for metric, sentence in (("accuracy", "is not a metric of a split"), ("test/bleu", "is not measured: use test/")):
        with pytest.raises(UserError, match=sentence):
            compress(original, small, ANY, train_config, names=NAMES, duration=STEPS, metric=metric)
