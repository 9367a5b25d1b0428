"""What is not finite at the end of a run, where no further step would notice."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.errors import UserError
from research.training.checkpoints import CheckpointPolicy, Checkpoints
from research.training.durations import Duration
from research.training.evaluation import check_finite
from research.training.fingerprint import not_finite, sealed
from research.training.loggers import read_metrics
from research.training.loop import fit
from research.training.progress import Diverged
from tests.training.toy import Regression, make_run

POLICY = CheckpointPolicy(every=Duration(steps=4), keep=9)
BEST = dataclasses.replace(POLICY, best="validation/loss")


def breaking(folder, at, value=np.nan, **options):
    """A run whose update of step `at` gives parameters of `value`, while its loss and gradient are finite."""
    run = make_run(folder, steps=12, **options)

    def update(updates, state, params=None):
        broken = jax.tree.map(lambda leaf: jnp.where(state == at, jnp.full_like(leaf, value), leaf), updates)
        return broken, state + 1

    optimizer = optax.GradientTransformation(lambda params: jnp.int32(0), update)
    run = dataclasses.replace(run, step=dataclasses.replace(run.step, optimizer=optimizer))

    def create():
        state = make_run(folder, steps=12, **options).create_state()
        return state.replace(opt_state=jnp.int32(0))

    sharding = run.abstract_state.step.sharding
    opt_state = jax.ShapeDtypeStruct((), jnp.int32, sharding=sharding)
    abstract = run.abstract_state.replace(opt_state=opt_state)
    return dataclasses.replace(run, abstract_state=abstract, create_state=create)


def train(run, policy):
    with Checkpoints(run.folder / "checkpoints", policy) as checkpoints:
        return fit(run, checkpoints)


@pytest.mark.parametrize("policy", [POLICY, BEST], ids=["latest", "best"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("options", [{}, {"ema": 0.5}, {"on_divergence": "skip"}], ids=str)
def test_the_last_update_spoils_the_parameters(policy, value, options, tmp_path):
    """They are not saved, the run ends with the last good step, and does so at every later start."""
    for _ in range(2):
        words = r"is not finite at step 11 \(training examples .*\); the last good checkpoint is step 8: lower opt"
        with pytest.raises(Diverged, match=words):
            train(breaking(tmp_path, 11, value, validation=0, **options), policy)
        with Checkpoints(tmp_path / "checkpoints", policy, write=False) as checkpoints:
            assert checkpoints.steps() == [4, 8] and checkpoints.evaluation_steps()


@pytest.mark.parametrize("at", [9, 10])
def test_the_loss_of_the_last_steps(at, tmp_path):
    with pytest.raises(Diverged, match=rf"(loss|grad_norm) is not finite at step {at + 1} .* is step 8"):
        train(breaking(tmp_path, at, validation=0), POLICY)


class Unmeasurable(Regression):
    """The loss is finite in training, and NaN in evaluation, where batches of 8 are padded."""

    def rows(self, examples, *, train, seed):
        return dataclasses.replace(super().rows(examples, train=train, seed=seed), count=7)

    def loss(self, apply, batch):
        metrics, updates = super().loss(apply, batch)
        bad = jnp.where((batch["weight"] == 0).any(), jnp.nan, 0.0)
        return {"loss": (metrics["loss"][0] + bad, metrics["loss"][1])}, updates


def test_a_metric_that_is_not_finite_is_never_the_best(tmp_path):
    """It ends a run that keeps the best by it; another run stores no number for it, and cannot be scored."""
    with pytest.raises(
        Diverged, match=r"validation/loss is not finite at step 4 .*; the last good checkpoint is step 4"
    ):
        train(make_run(tmp_path / "best", steps=12, task=Unmeasurable()), BEST)
    run = make_run(tmp_path / "latest", steps=12, task=Unmeasurable())
    state, _ = train(run, POLICY)
    row = next(row for row in read_metrics(run.folder / "metrics.jsonl") if "validation/loss" in row)
    assert row["validation/loss"] == "nan"
    with Checkpoints(run.folder / "checkpoints", BEST, write=False) as checkpoints:
        assert checkpoints.evaluation_steps() == [4, 8, 12][-1:]
    with pytest.raises(UserError, match="loss of the trained model is nan, which is not a result: train it in another"):
        check_finite(run.evaluator.measure(state.variables(), run.evaluator.split([{}] * 7)))


def test_folders_that_already_hold_nan_still_open(tmp_path, capsys, monkeypatch):
    """As older versions left them: NaN among the stored metrics, then NaN in the parameters too."""
    for step, values in ((4, {"validation/loss": 0.5}), (8, {"validation/loss": float("nan")})):
        monkeypatch.setattr("math.isfinite", lambda value: True)
        monkeypatch.setattr("research.training.progress.not_finite", lambda state: [])
        with Checkpoints(tmp_path / "checkpoints", BEST) as checkpoints:
            state = make_run(tmp_path).create_state()
            if step == 8:
                state = state.replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, state.params))
            checkpoints.save(state, step, {}, values, kept=True)
        monkeypatch.undo()
    stored = json.loads((tmp_path / "checkpoints" / "8" / "_CHECKPOINT_METADATA").read_text())
    assert np.isnan(stored["custom_metadata"]["notes"]["metrics"]["validation/loss"])
    abstract = make_run(tmp_path).abstract_state
    with Checkpoints(tmp_path / "checkpoints", BEST) as checkpoints:
        assert checkpoints.evaluation_steps() == [4]
        with pytest.raises(UserError, match=r"step 8 is damaged \(params/out/bias is not finite\)"):
            checkpoints.restore_variables(abstract, 8)
        assert checkpoints.restore_newest(abstract)[2] == 4
    assert "warning: the checkpoint of step 8 is damaged (params/out/bias is not finite)" in capsys.readouterr().err


def test_only_what_is_learnt_has_to_be_finite():
    """The optimizer may hold an infinite threshold; whole numbers are finite."""
    bad = jnp.array([1.0, jnp.inf])
    state = make_run_state(params={"a": jnp.ones(2)}, model_state={"batch_stats": {"b": bad}}, opt_state={"c": bad})
    assert not_finite(state) == ["model_state/batch_stats/b"]
    assert not_finite({"ema": {"d": bad.astype(jnp.bfloat16)}, "params": {"e": jnp.arange(3)}}) == ["ema/d"]


def make_run_state(**parts):
    return {"step": jnp.int32(1), **parts}


def test_notes_of_another_program_are_refused(tmp_path):
    """With a checksum that fits, as anybody can make it."""
    with Checkpoints(tmp_path / "checkpoints", POLICY) as checkpoints:
        checkpoints.save(make_run(tmp_path).create_state(), 4, {}, {}, kept=True)
    path = tmp_path / "checkpoints" / "4" / "_CHECKPOINT_METADATA"
    stored = json.loads(path.read_text())
    whole = stored["custom_metadata"]["notes"]
    for name, value in (("kept", "yes"), ("metrics", {"a": "b"}), ("contents", []), ("notes", None), ("kept", ...)):
        notes = {key: value if key == name else old for key, old in whole.items() if (key, value) != (name, ...)}
        path.write_text(json.dumps(stored | {"custom_metadata": sealed(notes)}))
        with pytest.raises(UserError, match="notes are of another program"):
            Checkpoints(tmp_path / "checkpoints", POLICY, write=False).evaluation_steps()
