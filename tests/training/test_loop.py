import json
import os
import signal
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from research.analysis import cost
from research.config import build, load
from research.errors import UserError
from research.runs.experiment import build_experiment
from research.training import progress
from research.training.checkpoints import CheckpointPolicy, Checkpoints
from research.training.durations import Duration
from research.training.loggers import MetricsFile, read_metrics
from research.training.loop import fit
from research.training.run import TrainingOptions
from tests.training.toy import Regression, make_run

NUM_DEVICES = len(jax.devices())
EVERY_FOUR = CheckpointPolicy(every=Duration(steps=4), keep=2)


def train(folder, policy=EVERY_FOUR, **options):
    run = make_run(folder, **options)
    with Checkpoints(folder / "checkpoints", policy) as checkpoints:
        state, timing = fit(run, checkpoints)
    return jax.device_get(state), timing


def logged(folder):
    return [
        {name: value for name, value in row.items() if not name.startswith("time/")}
        for row in read_metrics(folder / "metrics.jsonl")
    ]


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_training_learns_and_logs(tmp_path):
    state, timing = train(tmp_path, steps=60)
    np.testing.assert_allclose(state.params["out"]["kernel"][:, 0], [1, -2, 0.5], atol=0.05)
    rows = logged(tmp_path)
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(3, 61, 3))
    assert [row["step"] for row in rows if "validation/loss" in row] == list(range(5, 61, 5))
    assert timing.steps == 60 and timing.report()["data_wait_percent"] < 100


def test_logged_losses_are_means_over_the_steps_between(tmp_path):
    train(tmp_path / "fine", steps=6, log_every=1)
    train(tmp_path / "coarse", steps=6, log_every=3)
    fine = [row["train/loss"] for row in logged(tmp_path / "fine") if "train/loss" in row]
    coarse = [row["train/loss"] for row in logged(tmp_path / "coarse") if "train/loss" in row]
    np.testing.assert_allclose(coarse, [np.mean(fine[:3]), np.mean(fine[3:])], rtol=1e-12)


def test_utilization_is_operations_over_the_devices_peak(tmp_path, monkeypatch):
    """A dense layer of 3 numbers on 8 rows: 2 x 8 x 3 operations forward, as many for its gradient."""
    monkeypatch.setattr(progress, "peak", lambda device, dtype: 1e6)
    _, timing = train(tmp_path, steps=12)
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "time/mfu_percent" in row]
    assert [row["step"] for row in rows] == [3, 6, 9, 12] and timing.operations == 12 * 96
    for row in rows:
        assert row["time/mfu_percent"] == pytest.approx(100 * 96 * row["time/steps_per_second"] / (1e6 * NUM_DEVICES))
    report = timing.report()
    assert report["mfu_percent"] == pytest.approx(100 * 96 * report["steps_per_second"] / (1e6 * NUM_DEVICES))


def test_a_device_without_a_listed_peak_has_no_utilization(tmp_path):
    _, timing = train(tmp_path, steps=3)
    assert timing.operations == 0 and "mfu_percent" not in timing.report()
    assert not any("time/mfu_percent" in row for row in read_metrics(tmp_path / "metrics.jsonl"))


@pytest.mark.parametrize(
    ("spec", "path"),
    [("vision/digits.py", "model.remat"), ("vision/segmenter_scenes.py", "model.encoder.remat")],
)
def test_what_is_computed_again_is_no_use(spec, path, tmp_path):
    runs = []
    for name, overrides in (("plain", {}), ("again", {path: "full"})):
        (tmp_path / name).mkdir()
        runs.append(build_experiment(load(f"configs/{spec}:tiny", overrides), tmp_path / name).run)
    batch = runs[0].place(runs[0].batches[0])
    plain, again = (cost.flops(run.step.train, run.abstract_state, batch) for run in runs)
    assert runs[1].operations(batch) == runs[0].operations(batch) == plain < again


@pytest.mark.parametrize("stop", [4, 6, 9])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, stop):
    whole, _ = train(tmp_path / "whole", dropout=0.3, ema=0.9)

    class Stop(Exception):
        pass

    class StopsEarly(Checkpoints):
        def save(self, state, step, *rest, kept):
            if step > stop:
                raise Stop  # later checkpoints never come to be, their log lines do
            super().save(state, step, *rest, kept=kept)

    folder = tmp_path / "stopped"
    folder.mkdir()
    with pytest.raises(Stop), StopsEarly(folder / "checkpoints", EVERY_FOUR) as checkpoints:
        fit(make_run(folder, dropout=0.3, ema=0.9), checkpoints)
    resumed, _ = train(folder, dropout=0.3, ema=0.9)
    assert_same(whole, resumed)
    assert logged(tmp_path / "whole") == logged(folder)


def test_kill_nine_at_any_moment_changes_nothing(tmp_path):
    """Kills a training process again and again until it comes through; compares with an undisturbed run."""
    program = textwrap.dedent("""
        import sys, pathlib
        from tests.training.test_loop import train
        train(pathlib.Path(sys.argv[1]), steps=40, dropout=0.3)
        print("complete")
    """)

    def run(folder, seconds):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            return b"complete" in process.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            return False

    assert run(tmp_path / "whole", 300)
    random = np.random.default_rng(0)
    for _ in range(4):  # the start alone takes about a second: kills fall before, in and after the steps
        run(tmp_path / "killed", random.uniform(2.0, 5.0))
    assert run(tmp_path / "killed", 300)
    assert logged(tmp_path / "whole") == logged(tmp_path / "killed")
    states = []
    for name in ("whole", "killed"):
        with Checkpoints(tmp_path / name / "checkpoints", EVERY_FOUR) as checkpoints:
            assert checkpoints.steps()[-1] == 40
            states.append(jax.device_get(checkpoints.restore(make_run(tmp_path, steps=40).abstract_state, 40)[0]))
    assert_same(*states)


def test_a_nan_stops_the_run_and_names_step_examples_and_checkpoint(tmp_path):
    run = make_run(tmp_path, task=Regression(poison=17))
    step = next(step for step in range(20) if 17 in run.batches.plan(step).indices)
    saved = step // 4 * 4 or None
    expected = f"not finite at step {step} .*{'step ' + str(saved) if saved else 'no checkpoint'}"
    with (
        pytest.raises(UserError, match=expected),
        Checkpoints(tmp_path / "checkpoints", EVERY_FOUR) as checkpoints,
    ):
        fit(run, checkpoints)
    with Checkpoints(tmp_path / "checkpoints", EVERY_FOUR) as checkpoints:
        assert max(checkpoints.steps(), default=None) == saved


def test_the_latest_and_the_best_checkpoints_are_kept(tmp_path):
    policy = CheckpointPolicy(every=Duration(steps=4), keep=2, best="validation/loss")
    train(tmp_path, policy=policy, steps=20, batch_size=8)
    losses = {row["step"]: row["validation/loss"] for row in logged(tmp_path) if "validation/loss" in row}
    best = min(losses, key=losses.get)
    with Checkpoints(tmp_path / "checkpoints", policy) as checkpoints:
        assert set(checkpoints.steps()) >= {best, 20} and len(checkpoints.steps()) <= 3
        assert checkpoints.evaluation_steps() == [best]


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    train(tmp_path, steps=4)
    abstract = make_run(tmp_path).abstract_state
    wider = abstract.replace(params={"out": {**abstract.params["out"], "kernel": jax.ShapeDtypeStruct((5, 1), float)}})
    with (
        Checkpoints(tmp_path / "checkpoints") as checkpoints,
        pytest.raises(UserError, match=r"params/out/kernel is \(3, 1\) there and \(5, 1\) here"),
    ):
        checkpoints.restore(wider, 4)


def test_metrics_file_drops_lines_beyond_the_step_and_torn_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        "".join(json.dumps({"step": step, "train/loss": 1.0}) + "\n" for step in (1, 2, 3)) + '{"step": 4, "tr'
    )
    file = MetricsFile(path, 2)
    file.write(3, {"train/loss": float("inf")})
    file.close()
    assert read_metrics(path) == [
        {"step": 1, "train/loss": 1.0},
        {"step": 2, "train/loss": 1.0},
        {"step": 3, "train/loss": "inf"},
    ]


LINES = "".join(f'{{"step": {step}, "train/loss": 1.0}}\n' for step in (10, 20, 30, 40))
KEPT = "cannot be read, what it was is kept as metrics.jsonl.damaged"


@pytest.mark.parametrize(
    ("content", "told", "kept"),
    [
        (LINES, "", 4),
        (LINES + '{"step": 50, "tra', "", 4),  # cut short by a kill
        (LINES + "[]\nnull\n5\n", f"metrics.jsonl: 3 lines {KEPT}", 4),
        (LINES.replace('"step": 20', '"step": NaN'), "1 line cannot be read", 3),
        (LINES.replace("1.0", "[1]", 1), "1 line cannot be read", 3),
        (LINES.replace("40", "1e9"), f"1 line {KEPT}; metrics.jsonl has no lines from step 31 to 40: they are lost", 3),
        (LINES[: len(LINES) // 2], "metrics.jsonl has no lines from step 21 to 40: they are lost", 2),
        ("\0\xff\xfe" * 99, "metrics.jsonl has no lines from step 1 to 40", 0),
        ("", "metrics.jsonl has no lines from step 1 to 40: they are lost", 0),
        (None, "metrics.jsonl has no lines from step 1 to 40: they are lost", 0),
        ("folder", "it is not a file, what it was is kept as metrics.jsonl.damaged", 0),
        ("pipe", "it is not a file, what it was is kept as metrics.jsonl.damaged", 0),
        (LINES.replace('"step": 30', '"step": %s' % ("9" * 5000)), "1 line cannot be read", 3),
        (LINES + "[" * 100_000 + "\n", "1 line cannot be read", 4),
    ],
)  # fmt: skip
def test_metrics_that_were_lost_are_told_when_a_run_resumes(tmp_path, capsys, content, told, kept):
    path, damaged = tmp_path / "metrics.jsonl", tmp_path / "metrics.jsonl.damaged"
    if content == "folder":
        path.mkdir()
    elif content == "pipe":
        os.mkfifo(path)
    elif content is not None:
        path.write_text(content, encoding="latin-1")
    file = MetricsFile(path, 43, every=10)  # saved three steps after the last line
    file.write(50, {"train/loss": 0.5})
    file.close()
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == bool(told)
    assert len(read_metrics(path)) == kept + 1
    if "is kept as" in said:
        again = MetricsFile(path, 50, every=10)
        again.close()
        assert (
            damaged.is_dir()
            if content == "folder"
            else damaged.is_fifo() or damaged.read_bytes() == content.encode("latin-1")
        )


def test_metrics_are_numbers_with_a_step_whatever_the_file_holds(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == read_metrics(tmp_path) == read_metrics(tmp_path / "a\0b") == []
    path.write_text(
        '[]\nnull\n3\n"step"\n{"step": 1.5}\n{"step": true}\n{"step": -1}\n{"loss": 1}\n{"step": 2, "x": {}}\n'
        '{"step": 3, "x": "many"}\n{"step": 4, "x": "nan", "y": -2}\n{"step": 5, "x": Infinity}\n\n{"step": 6}'
    )
    assert read_metrics(path) == [{"step": 4, "x": "nan", "y": -2}, {"step": 6}]


def test_patience_stops_after_evaluations_without_a_new_best(tmp_path):
    """At learning rate 0 nothing improves after the first evaluation; a resumed run stops at the same step."""
    policy = CheckpointPolicy(keep=2, best="validation/loss")

    def train_frozen(folder, stop_at=None):
        run = make_run(folder, steps=60, patience=3, learning_rate=0.0)

        class Stop(Exception):
            pass

        class StopsEarly(Checkpoints):
            def save(self, state, step, *rest, kept):
                super().save(state, step, *rest, kept=kept)
                if step == stop_at:
                    self.wait()
                    raise Stop

        try:
            with StopsEarly(folder / "checkpoints", policy) as checkpoints:
                fit(run, checkpoints)
        except Stop:
            return None
        return [row["step"] for row in logged(folder) if "validation/loss" in row]

    assert train_frozen(tmp_path / "whole") == [5, 10, 15, 20]
    assert train_frozen(tmp_path / "stopped", stop_at=10) is None
    assert train_frozen(tmp_path / "stopped") == [5, 10, 15, 20]
    assert train_frozen(tmp_path / "stopped") == [5, 10, 15, 20]  # nothing left to do


def test_what_is_best_must_be_measured(tmp_path):
    with pytest.raises(
        UserError, match=r"checkpoint\.best 'validation/bleu' is not measured: use one of validation/loss"
    ):
        train(tmp_path, policy=CheckpointPolicy(best="validation/bleu"))


def test_averaging_needs_as_many_checkpoints():
    with pytest.raises(UserError, match=r"checkpoint\.average is 5 and checkpoint\.keep 2"):
        CheckpointPolicy(average=5)


def test_skipped_updates_change_nothing_and_are_named(tmp_path, capsys):
    """The poisoned step is left out: the state equals that of a run whose update there has learning rate 0."""
    run = make_run(tmp_path, task=Regression(poison=17), on_divergence="skip", log_every=1)
    bad = [step for step in range(20) if 17 in run.batches.plan(step).indices]
    with Checkpoints(tmp_path / "checkpoints", EVERY_FOUR) as checkpoints:
        state, _ = fit(run, checkpoints)
    rows = {row["step"] - 1: row for row in logged(tmp_path) if "train/skipped" in row}
    assert [step for step, row in rows.items() if row["train/skipped"] == 1] == bad
    assert all("train/loss" not in rows[step] for step in bad) and "train/loss" in rows[bad[0] + 1]
    assert int(state.accepted) == 20 - len(bad) and int(state.step) == 20
    warned = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in warned] == [str(step) for step in bad]
    assert "is not finite" in warned[0]


def test_too_many_skipped_updates_in_a_row_stop_the_run(tmp_path):
    class Poisoned(Regression):
        def loss(self, apply, batch):
            metrics, updates = super().loss(apply, batch)
            return {"loss": (metrics["loss"][0] * np.nan, metrics["loss"][1])}, updates

    with pytest.raises(UserError, match=r"20 updates in a row were skipped; .* is not finite at step 19"):
        train(tmp_path, steps=40, task=Poisoned(), on_divergence="skip", validation=0)


def test_a_spike_stops_the_run_or_is_skipped(tmp_path):
    """One batch has targets a hundred times as large, after the average of the norms has settled."""

    class Spiked(Regression):
        def loss(self, apply, batch):
            prediction, updates = apply(batch["x"])
            factor = jax.numpy.where(batch["index"][0] == first, 1e4, 1.0)
            errors = (prediction - batch["y"] * factor) ** 2 + 1e-3 * prediction
            return {"loss": ((errors * batch["weight"]).sum(), batch["weight"].sum())}, updates

    run = make_run(tmp_path / "stop", task=Spiked(), steps=130, spike=50.0, learning_rate=1e-3, log_every=1)
    first = int(run.batches.plan(120).indices[0])
    steps = [step for step in range(130) if run.batches.plan(step).indices[0] == first]
    with (
        pytest.raises(UserError, match=r"grad_norm .* is over training.spike times its average at step 120"),
        Checkpoints(tmp_path / "stop" / "checkpoints", EVERY_FOUR) as checkpoints,
    ):
        fit(run, checkpoints)
    assert next(step for step in steps if step >= 100) == 120


@pytest.mark.parametrize(("name", "value", "words"), [("on_divergence", "hope", "must be"), ("spike", 0.5, "is 0.5")])
def test_divergence_options_are_checked(name, value, words):
    with pytest.raises(UserError, match=rf"training\.{name} {words}"):
        build(TrainingOptions, {"duration": {"steps": 1}, "batch_size": 1, name: value}, "training")
