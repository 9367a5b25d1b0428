import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.errors import UserError
from research.tasks.logits import Logits
from research.training.distillation import Distillation, Distilled
from research.training.inference import Precision
from research.training.state import create_state
from research.training.step import Step
from tests.training.toy import FLOAT32, Linear, Points, Regression


def batch_of(count, weights=None):
    batch = Points().batch(np.arange(count), np.zeros(count), None)
    return {**batch, "weight": np.ones(count, np.float32) if weights is None else np.asarray(weights, np.float32)}


def make(model=None, accumulate=1, ema=None, precision=FLOAT32, task=None):
    step = Step(model or Linear(), task or Regression(), optax.sgd(0.1), precision, 0, accumulate, ema)
    state = create_state(step.model, (jnp.zeros((1, 3)),), step.optimizer, seed=0, ema=ema is not None)
    return step, state


def test_one_step_against_numpy():
    step, state = make()
    batch = batch_of(4, [1, 1, 0, 1])
    new_state, metrics = jax.jit(step.train)(state, batch)
    kernel, bias = np.float64(state.params["out"]["kernel"])[:, 0], np.float64(state.params["out"]["bias"])[0]
    x, y, kept = np.float64(batch["x"]), np.float64(batch["y"]), [0, 1, 3]
    error = (x @ kernel + bias - y)[kept]
    assert float(metrics["loss"][0]) == pytest.approx((error**2).sum(), rel=1e-5)
    assert float(metrics["loss"][1]) == 3
    np.testing.assert_allclose(
        new_state.params["out"]["kernel"][:, 0], kernel - 0.1 * 2 * (error[:, None] * x[kept]).mean(0), rtol=1e-5
    )
    gradient = np.append(2 * (error[:, None] * x[kept]).mean(0), 2 * error.mean())
    assert float(metrics["grad_norm"][0]) == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
    assert int(new_state.step) == 1


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_equals_the_big_batch_for_uneven_weights(accumulate):
    batch = batch_of(8, [1, 0, 0, 1, 1, 1, 0, 1])
    (whole, state), (parts, _) = make(), make(accumulate=accumulate)
    one, one_metrics = jax.jit(whole.train)(state, batch)
    other, other_metrics = jax.jit(parts.train)(state, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), one.params, other.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one_metrics, other_metrics)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_teacher_is_asked_about_each_micro_batch(accumulate):
    """The loss is the divergence from what the teacher, another set of the same parameters, says of the same rows."""

    class Signs(Regression):
        """Whether a number is positive: two classes, the logit of one of which is 0."""

        def logits(self, apply, batch):
            prediction, updates = apply(batch["x"])
            return (Logits(jnp.stack([jnp.zeros_like(prediction), prediction], axis=-1), batch["weight"]),), updates

        def metrics(self, logits, batch):
            return {"loss": ((logits[0].values[:, 1] ** 2 * batch["weight"]).sum(), batch["weight"].sum())}

    step, state = make(accumulate=accumulate, task=Signs())
    learning = Distilled(Distillation(teacher="", weight=1.0, temperature=1.0), step.inference)
    taught = jax.tree.map(lambda leaf: leaf + 1, state.variables())
    batch = batch_of(8, [1, 0, 0, 1, 1, 1, 0, 1])
    _, metrics = jax.jit(dataclasses.replace(step, distilled=learning).train)(state, batch, taught)
    layer = np.float64(state.params["out"]["kernel"]), np.float64(state.params["out"]["bias"])
    own, other = ((np.float64(batch["x"]) @ (layer[0] + add) + layer[1] + add)[:, 0] for add in (0, 1))
    ours, theirs = 1 / (1 + np.exp(-own)), 1 / (1 + np.exp(-other))
    expected = theirs * np.log(theirs / ours) + (1 - theirs) * np.log((1 - theirs) / (1 - ours))
    for name in ("loss", "distillation_loss"):
        assert float(metrics[name][0]) == pytest.approx((expected * np.asarray(batch["weight"])).sum(), rel=1e-4)


def test_dropout_is_a_function_of_seed_and_step():
    step, state = make(Linear(dropout=0.5))
    train = jax.jit(step.train)
    losses = [float(train(state.replace(step=jnp.int32(n)), batch_of(8))[1]["loss"][0]) for n in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_ema_follows_the_parameters():
    step, state = make(ema=0.9)
    new_state, _ = jax.jit(step.train)(state, batch_of(4))
    old, new = (np.float64(s.params["out"]["kernel"]) for s in (state, new_state))
    np.testing.assert_allclose(new_state.ema["out"]["kernel"], 0.9 * old + 0.1 * new, rtol=1e-5)
    assert new_state.variables()["params"] is new_state.ema


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters():
    precision = Precision.parse("params=float32,compute=bfloat16")
    step, state = make(precision=precision)
    new_state, _ = jax.jit(step.train)(state, batch_of(4))
    assert {leaf.dtype for leaf in jax.tree.leaves(new_state.params)} == {jnp.dtype("float32")}
    text = str(jax.make_jaxpr(step.train)(state, batch_of(4)))
    assert "bf16[3,1]" in text
    with pytest.raises(UserError, match=r"training\.precision 'fp8' is unknown"):
        Precision.parse("fp8")


def test_batch_statistics_are_carried_and_used_in_evaluation():
    class Normalised(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)
            return nn.Dense(1, name="out")(x)[..., 0]

    step, state = make(Normalised())
    batch = batch_of(8)
    new_state, _ = jax.jit(step.train)(state, batch)
    mean = new_state.model_state["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, 0.5 * np.float64(batch["x"]).mean(0), rtol=1e-4, atol=1e-6)
    before = float(step.inference.evaluate(new_state.variables(), batch)["loss"][0])
    one_row = {name: np.stack([array[0]] * 8) for name, array in batch.items()}
    assert np.isfinite(before) and np.isfinite(
        float(step.inference.evaluate(new_state.variables(), one_row)["loss"][0])
    )
