"""What can be known before the first step is checked before it: a run that was paid for can be measured."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from research.data.loader import Batches
from research.data.rows import Rows
from research.data.source import Mixed, Streamed
from research.errors import UserError
from research.runs.experiment import Experiment
from research.training.evaluation import means
from research.training.limits import check_memory

READ_SECONDS = 1.0
"""For reading examples that are read when they are asked for, such as image files; all of them if there is time."""


def check_before_training(experiment: Experiment) -> None:
    """Raises UserError for what would end the run after its training, when it is measured.

    Looked at are the memory that a step needs, the name of `checkpoint.best`, every evaluation split as the task's
    arrays, the settings of decoding by tracing an answer, and the examples that a run prints at its end.
    """
    run, task = experiment.run, experiment.task
    check_memory(run, experiment.sample_batch)
    _check_best(experiment)
    splits = [split for split in experiment.source.splits if split != "train"]
    for split in splits:
        examples = experiment.examples(split)
        if not len(examples):
            raise UserError(f"the {split} split has no examples: add some, or leave its part of the data section out")
        _longest_batch(experiment, task.rows_of(examples, train=False, seed=0))
        if task.scorer() is not None:
            task.questions(examples)
        _read(split, examples, READ_SECONDS / len(splits))
    if splits and (samples := task.shown(experiment.examples(splits[-1]), 1)):
        variables = jax.eval_shape(lambda state: state.variables(), run.abstract_state)
        with jax.set_mesh(experiment.mesh):
            batch = _longest_batch(experiment, task.questions(samples))
            jax.eval_shape(run.evaluator.inference.predict, variables, batch)


def _check_best(experiment: Experiment) -> None:
    """Raises UserError where `checkpoint.best` is not measured."""
    best, run, scorer = experiment.checkpoint.best, experiment.run, experiment.task.scorer()
    if best is None:
        return
    variables = jax.eval_shape(lambda state: state.variables(), run.abstract_state)
    batch = {**experiment.sample_batch, "weight": np.zeros(1, np.float32)}
    with jax.set_mesh(experiment.mesh):
        metrics = jax.eval_shape(run.evaluator.inference.evaluate, variables, batch)
    sums = {name: np.zeros((2, *total.shape)) for name, (total, _) in metrics.items()}
    known = [f"validation/{name}" for name in (*means(sums), *(scorer.names if scorer else ()))]
    if best not in known:
        raise UserError(f"checkpoint.best {best!r} is not measured: use one of {', '.join(known)}")
    if run.validation is None:
        raise UserError(f"checkpoint.best {best!r} needs a validation split, and the data have none: leave it out")


def _longest_batch(experiment: Experiment, rows: Rows) -> Mapping[str, np.ndarray]:
    """The last batch of the evaluation's plan, which is that of the longest rows."""
    plan = experiment.evaluator.plan(rows)
    batches = Batches.on_mesh(rows, plan, int(plan.steps_per_epoch), experiment.mesh)
    return batches[len(batches) - 1]


def _read(split: str, examples: Any, seconds: float) -> None:
    """Reads examples in a random order until all are read or the time is over."""
    if isinstance(examples, list | Streamed):
        return
    if isinstance(examples, Mixed):
        for part in examples.parts:
            _read(split, part, seconds / len(examples.parts))
        return
    end = time.monotonic() + seconds
    for count, index in enumerate(np.random.default_rng(0).permutation(len(examples)), 1):
        examples[int(index)]
        if time.monotonic() > end:
            print(f"{count:,} of {len(examples):,} {split} examples were read, as a check", flush=True)
            break
