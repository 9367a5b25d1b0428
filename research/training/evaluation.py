"""Exact measures of a split, and answers to examples."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from research.data.loader import Batches, load
from research.data.plans import Bucket, ByLength, InOrder, Plan, make_buckets
from research.data.rows import Rows
from research.errors import UserError
from research.parallel.mesh import place_batch
from research.tasks.task import Example, Task
from research.training.inference import Inference

NUM_BUCKETS, BATCHES_PER_BUCKET = 4, 16
"""Static lengths that evaluation pads to at most, and the batches for which another one is worth its compilation."""
MULTIPLE = 8
"""What such lengths are multiples of, so that splits share their programs."""


def check_finite(metrics: Mapping[str, float]) -> None:
    """Raises UserError naming the first metric that is NaN or infinite."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise UserError(
                f"{name} of the trained model is {value}, which is not a result: train it in another --workdir with a "
                "lower optimizer.learning_rate or a longer schedule.warmup"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Examples with the rows that a task makes of them, made once however often they are measured."""

    task: Task
    examples: Sequence[Example]

    @functools.cached_property
    def rows(self) -> Rows:
        """The examples with their answers."""
        return self.task.rows_of(self.examples, train=False, seed=0)

    @functools.cached_property
    def questions(self) -> Rows:
        """The examples without their answers."""
        return self.task.questions(self.examples)


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator:
    """Runs a task over examples: every example counts once, whatever the batch size or mesh."""

    inference: Inference
    mesh: Mesh
    batch_size: int

    def split(self, examples: Sequence[Example]) -> Split:
        """Examples as the task's."""
        return Split(self.inference.task, examples)

    def measure(self, variables: Mapping[str, Any], split: Split, *, scores: bool = True) -> dict[str, float]:
        """All metrics of a split: the task's sums and, with `scores`, those of its answers where it has any."""
        return self.metrics(variables, split.rows) | (self.scores(variables, split) if scores else {})

    def scores(self, variables: Mapping[str, Any], split: Split) -> dict[str, float]:
        """The scores of a split's answers, which stream to their scorer: neither they nor the examples are kept."""
        scorer = self.inference.task.scorer()
        if scorer is None:
            return {}
        for index, answer in self.answers(variables, split):
            scorer.add(split.examples[index], answer)
        return scorer.result()

    def metrics(self, variables: Mapping[str, Any], rows: Rows) -> dict[str, float]:
        """The task's metrics, summed over all batches before dividing; of an array one for each of its elements."""
        totals: dict[str, np.ndarray] = {}
        for batch in self._load(rows, self.plan(rows)):
            with jax.set_mesh(self.mesh):
                sums = self._evaluate(variables, batch)
            for name, pair in jax.device_get(sums).items():
                totals[name] = totals.get(name, 0) + np.asarray(pair, np.float64)
        return means(totals)

    def answers(
        self, variables: Mapping[str, Any], split: Split, plan: Plan | None = None
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """The index of each example and the task's answer to it, as they come; `plan` is of the questions' rows."""
        task, examples, questions = self.inference.task, split.examples, split.questions
        owners = questions.owners()
        owners = np.arange(len(questions)) if owners is None else owners
        missing = np.bincount(owners, minlength=len(examples))
        plan = plan or self.plan(questions)
        waiting: dict[int, dict[int, Any]] = {}
        for step, batch in enumerate(self._load(questions, plan)):
            raw = self._predict(variables, batch)
            if jax.process_count() > 1:
                raw = multihost_utils.process_allgather(raw, tiled=True)
            raw = jax.device_get(raw)
            for place, row in enumerate(plan(step).indices):
                if row < 0:  # padding
                    continue
                owner = int(owners[row])
                rows = waiting.setdefault(owner, {})
                rows[int(row)] = jax.tree.map(lambda leaf, place=place: leaf[place], raw)
                if len(rows) == missing[owner]:
                    del waiting[owner]
                    yield owner, task.answer(examples[owner], [rows[index] for index in sorted(rows)])

    def stream(self, variables: Mapping[str, Any], example: Example) -> Iterator[dict[str, Any]]:
        """The task's answer to an example of one row as it grows."""
        rows = self.inference.task.questions([example])
        (batch,) = self._load(rows, few_shapes(rows, self.batch_size))
        for raw in self.inference.stream(variables, batch, example):
            yield self.inference.task.answer(example, [raw])

    def trace_metrics(self, variables: Mapping[str, Any], rows: Rows) -> dict[str, Any]:
        """The shapes of the task's sums for the longest batch of a split, made without computing anything.

        variables: arrays, or their shapes and shardings. What is traced here is not traced again by `metrics`.
        """
        with jax.set_mesh(self.mesh):
            return self._evaluate.eval_shape(variables, self._longest(rows))

    def trace_answers(self, variables: Mapping[str, Any], questions: Rows) -> None:
        """The same for the task's answers."""
        self._predict.eval_shape(variables, self._longest(questions))

    def _longest(self, rows: Rows) -> dict[str, jax.Array]:
        batches = self._batches(rows, self.plan(rows))
        return place_batch(batches[len(batches) - 1], self.mesh)

    def plan(self, rows: Rows) -> Plan:
        """Every row once, those of about equal length together, the longest last."""
        lengths = rows.lengths()
        if lengths is None:
            return InOrder(len(rows), self.batch_size)
        count = min(max(len(rows) // (BATCHES_PER_BUCKET * self.batch_size), 1), NUM_BUCKETS)
        rounded = lengths
        if lengths.ndim == 1 and rows.longest is not None:
            rounded = -(-lengths // MULTIPLE) * MULTIPLE if count > 1 else _powers_of_two(lengths)
            rounded = np.minimum(rounded, rows.longest)
        return ByLength(lengths, make_buckets(rounded, count, batch_size=self.batch_size))

    def _load(self, rows: Rows, plan: Plan) -> Iterator[dict[str, jax.Array]]:
        return load(self._batches(rows, plan), 0, functools.partial(place_batch, mesh=self.mesh))

    def batches(self, rows: Rows) -> Iterator[dict[str, np.ndarray]]:
        """All batches of a split, unplaced."""
        return load(self._batches(rows, self.plan(rows)), 0, lambda batch: batch)

    def _batches(self, rows: Rows, plan: Plan) -> Batches:
        return Batches.on_mesh(rows, plan, int(plan.steps_per_epoch), self.mesh)

    @functools.cached_property
    def _evaluate(self):
        return jax.jit(self.inference.evaluate)

    @functools.cached_property
    def _predict(self):
        return jax.jit(self.inference.predict)


def means(totals: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Sums [2, ...], each with its weight, divided; the elements of an array are `name/0`, `name/1` and so on."""
    found: dict[str, float] = {}
    for name, (total, weight) in totals.items():
        value = total / np.maximum(weight, 1e-12)
        if np.ndim(value) == 0:
            found[name] = float(value)
        else:
            found |= {f"{name}/{index}": float(element) for index, element in enumerate(np.ravel(value))}
    return found


def few_shapes(rows: Rows, batch_size: int) -> Plan:
    """A plan whose batches have few shapes whatever the rows: lengths and numbers of rows are powers of two.

    So answers to other inputs need no new program; no batch has more than `batch_size` rows. Rows of few batches have
    one shape.
    """
    lengths = rows.lengths()
    if lengths is None:
        return InOrder(len(rows), _size(len(rows), batch_size))
    rounded = _powers_of_two(lengths)
    if len(rows) <= BATCHES_PER_BUCKET * batch_size:
        rounded = np.full_like(rounded, rounded.max(initial=1))
    longest = rows.longest or int(rounded.max(initial=1))
    counts = {int(length): int((rounded == length).sum()) for length in np.unique(rounded)}
    buckets = [Bucket(min(length, longest), _size(count, batch_size)) for length, count in counts.items()]
    return ByLength(lengths, tuple(buckets))


def _powers_of_two(lengths: np.ndarray) -> np.ndarray:
    """The lengths rounded up, to 8 at least."""
    return 2 ** np.ceil(np.log2(np.maximum(lengths, 8))).astype(int)


def _size(count: int, most: int) -> int:
    """Of a batch for this number of rows: 1, 8 or another power of two, and not above `most`."""
    return min(1 if count < 2 else max(8, 1 << (count - 1).bit_length()), most)
