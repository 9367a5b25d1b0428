"""A few examples must be learnt by heart: a model, loss or data that cannot do this will not learn from more."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from research.data.loader import Batches
from research.data.rows import Rows
from research.errors import UserError
from research.parallel.sharding import by_path
from research.runs.experiment import Experiment
from research.training.evaluation import means
from research.training.step import Step

STEPS, LEARNING_RATE = 500, 3e-3
LEARNT = 0.1
"""Of its first loss that is left of what is known by heart."""
MOVED = 0.9
"""Of the first value of a part of the loss that is left of one that did not move."""
RANDOM = (
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "stochastic_depth",
    "mixup",
    "cutmix",
    "label_smoothing",
)
"""Fields that keep a loss from becoming small."""


def overfit(experiment: Experiment, count: int) -> list[str]:
    """Trains on the first `count` rows (or all) for at most STEPS updates of Adam; sentences that tell how it went.

    Without what is random in the model and the loss, with each row as it is in the first epoch. Raises UserError, with
    what did not move, where the loss does not fall to LEARNT of what it was.
    """
    model, task = _calm(experiment.model), _calm(experiment.task)
    calm = dataclasses.replace(experiment, model=model, task=task)
    optimizer = optax.adam(LEARNING_RATE)
    _, taught = calm.teacher
    step = dataclasses.replace(calm.step(optimizer), accumulate=1, ema=None, spike=None)
    batch = jax.tree.map(jax.numpy.asarray, _batch(calm.batches, count))
    count = len(batch["weight"])
    with jax.set_mesh(calm.mesh):
        state = jax.jit(calm.create_state(optimizer))({})
        train = jax.jit(step.train, donate_argnums=0)
        history: list[dict[str, float]] = []
        while len(history) < STEPS and (not history or history[-1]["loss"] > LEARNT * history[0]["loss"]):
            state, metrics = train(state, batch, taught)
            history.append(_values(metrics))
            if not np.isfinite(history[-1]["loss"]):
                raise UserError(
                    f"the loss of step {len(history)} is not finite: look at the task's loss and its inputs"
                )
        first, last = history[0], history[-1]
        if last["loss"] > LEARNT * first["loss"]:
            still = [name for name in last if name != "grad_norm" and abs(last[name]) > MOVED * abs(first[name]) > 0]
            silent = _without_gradient(step, state, batch, taught)
            raise UserError(
                f"{count} examples were not learnt by heart in {STEPS} steps: the loss is {last['loss']:.4g}, more "
                f"than {LEARNT:.0%} of the {first['loss']:.4g} before (did not fall: {', '.join(still) or 'none'}; "
                f"without a gradient: {', '.join(silent[:5]) or 'none'}): look at the model, the loss and the labels"
            )
    lines = [f"{name}: {first[name]:.4g} before, {last[name]:.4g} after {len(history)} steps" for name in last]
    return [*lines, f"{count} examples are learnt by heart after {len(history)} steps"]


def _calm(part: Any) -> Any:
    """A model or task without what is random, or keeps the loss up."""
    names = {field.name for field in dataclasses.fields(part)}
    return dataclasses.replace(part, **{name: 0.0 for name in RANDOM if name in names})


def _batch(batches: Batches, count: int) -> Mapping[str, np.ndarray]:
    """The first rows as they are in epoch 0, padded to the longest of them."""
    rows: Rows = batches.rows
    found = min(count, len(rows))
    return {**rows.first(found), "weight": np.ones(found, np.float32)}


def _values(metrics: Any) -> dict[str, float]:
    totals = {name: np.asarray(pair, np.float64) for name, pair in jax.device_get(metrics).items()}
    return {name: value for name, value in means(totals).items() if name != "skipped"}


def _without_gradient(step: Step, state: Any, batch: Any, taught: Any) -> list[str]:
    """The parameters whose gradient is 0 everywhere."""
    gradients = jax.jit(step.gradients)(state, batch, taught)
    return [path for path, leaf in by_path(gradients).items() if not np.any(np.asarray(leaf))]
