"""Exact evaluation of a split, and answers for inputs."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from research.data.loader import Batches, Dataset, load
from research.data.plans import ByLength, InOrder, Plan, make_buckets
from research.errors import UserError
from research.parallel.mesh import place_batch
from research.training.step import Step

NUM_BUCKETS = 4
"""Static lengths that evaluation pads to: each costs a compilation."""


def check_finite(metrics: Mapping[str, float]) -> None:
    """Raises UserError naming the first metric that is NaN or infinite."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise UserError(
                f"{name} of the trained model is {value}, which is no result: train it in another --workdir with a "
                "lower optimizer.learning_rate or a longer schedule.warmup"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator:
    """Runs the task's measures over whole splits: every example counts once, whatever the batch size or mesh."""

    step: Step
    mesh: Mesh
    batch_size: int

    def metrics(self, variables: Mapping[str, Any], dataset: Dataset) -> dict[str, float]:
        """The task's metrics, summed over all batches before dividing."""
        totals: dict[str, np.ndarray] = {}
        for batch in self._load(dataset, self.plan(dataset)):
            with jax.set_mesh(self.mesh):
                sums = self._evaluate(variables, batch)
            for name, pair in jax.device_get(sums).items():
                totals[name] = totals.get(name, 0) + np.asarray(pair, np.float64)
        return {name: float(total / max(weight, 1e-12)) for name, (total, weight) in totals.items()}

    def answers(self, variables: Mapping[str, Any], questions: Dataset) -> list[dict[str, Any]]:
        """The task's answer to each question, in order."""
        plan = self.plan(questions)
        answers: dict[int, dict[str, Any]] = {}
        for step, batch in enumerate(self._load(questions, plan)):
            raw = self._predict(variables, batch)
            if jax.process_count() > 1:
                raw = multihost_utils.process_allgather(raw, tiled=True)
            for index, row in zip(plan(step).indices, np.asarray(raw), strict=False):  # what follows is padding
                if index >= 0:
                    answers[int(index)] = self.step.task.answer(row)
        return [answers[index] for index in range(len(questions))]

    def score(self, variables: Mapping[str, Any], examples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """All of a split's metrics: the task's sums, and its scores of whole answers where it has any.

        Raises UserError for one that is not finite.
        """
        task = self.step.task
        metrics = self.metrics(variables, task.dataset(examples, train=False, seed=0))
        if task.scored:
            metrics |= task.score(self.answers(variables, task.questions(examples)), list(examples))
        check_finite(metrics)
        return metrics

    def plan(self, dataset: Dataset) -> Plan:
        """Every example once, those of about equal length together, the longest last."""
        lengths = dataset.lengths()
        if lengths is None:
            return InOrder(len(dataset), self.batch_size)
        return ByLength(lengths, make_buckets(lengths, NUM_BUCKETS, batch_size=self.batch_size))

    def _load(self, dataset: Dataset, plan: Plan) -> Iterator[dict[str, jax.Array]]:
        return load(self._batches(dataset, plan), 0, functools.partial(place_batch, mesh=self.mesh))

    def batches(self, dataset: Dataset) -> Iterator[dict[str, np.ndarray]]:
        """All batches of a split, unplaced."""
        return load(self._batches(dataset, self.plan(dataset)), 0, lambda batch: batch)

    def _batches(self, dataset: Dataset, plan: Plan) -> Batches:
        return Batches.on_mesh(dataset, plan, int(plan.steps_per_epoch), self.mesh)

    @functools.cached_property
    def _evaluate(self):
        return jax.jit(self.step.evaluate)

    @functools.cached_property
    def _predict(self):
        return jax.jit(self.step.predict)
