"""What can be known before the first step is checked before it: a run that was paid for can be measured."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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
    variables = run.abstract_state.variables()
    splits = [split for split in experiment.source.splits if split != "train"]
    best = experiment.checkpoint.best
    if best is not None and run.validation is None:
        raise UserError(f"checkpoint.best {best!r} needs a validation split, and the data have none: leave it out")
    for split in splits:
        examples = experiment.examples(split)
        if not len(examples):
            raise UserError(f"the {split} split has no examples: add some, or leave its part of the data section out")
        metrics = run.evaluator.trace_metrics(variables, task.rows_of(examples, train=False, seed=0))
        if split == "validation" and best is not None:
            _check_best(best, metrics, task.score_names(examples))
        if task.scorer() is not None:
            run.evaluator.trace_answers(variables, task.questions(examples))
    for split in experiment.source.splits:
        _read(experiment, split, experiment.examples(split), READ_SECONDS / len(experiment.source.splits))
    if splits and (samples := task.shown(experiment.examples(splits[-1]), 1)):
        questions = task.questions(samples)
        if task.scorer() is None:
            run.evaluator.trace_answers(variables, questions)


def _check_best(best: str, metrics: Mapping[str, Any], scores: Sequence[str]) -> None:
    """Raises UserError where `checkpoint.best` is neither a metric, whose sums have these shapes, nor a score."""
    sums = {name: np.zeros((2, *total.shape)) for name, (total, _) in metrics.items()}
    known = [f"validation/{name}" for name in (*means(sums), *scores)]
    if best not in known:
        raise UserError(f"checkpoint.best {best!r} is not measured: use one of {', '.join(known)}")


def _read(experiment: Experiment, split: str, examples: Any, seconds: float) -> None:
    """Reads examples in a random order until all are read or the time is over.

    Raises UserError for one that cannot be read, or whose shape is another than that of the others.
    """
    if isinstance(examples, list | Streamed):
        return
    if isinstance(examples, Mixed):
        for part in examples.parts:
            _read(experiment, split, part, seconds / len(examples.parts))
        return
    end, alike = time.monotonic() + seconds, experiment.batches.rows.lengths() is None
    for count, index in enumerate(np.random.default_rng(0).permutation(len(examples)), 1):
        example = examples[int(index)]
        if alike:
            rows = experiment.task.rows([example], train=False, seed=0)
            _check_shapes(f"example {index} of {split}", rows, experiment)
        if time.monotonic() > end:
            print(f"{count:,} of {len(examples):,} {split} examples were read, as a check", flush=True)
            break


def _check_shapes(name: str, rows: Rows, experiment: Experiment) -> None:
    """Raises UserError where the arrays of an example have other shapes than those of the training's first one."""
    for key, array in rows.first().items():
        usual = experiment.sample_batch[key].shape[1:] if key in experiment.sample_batch else array.shape[1:]
        if array.shape[1:] != usual:
            raise UserError(
                f"{name} has {key} of shape {list(array.shape[1:])}, others {list(usual)}: set data.size to resize them"
            )
