"""The training loop: one for every experiment."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from research.data.loader import Batches, load
from research.errors import UserError
from research.parallel.mesh import place_batch
from research.tasks.task import Metrics
from research.training.checkpoints import Checkpoints
from research.training.durations import Clock, Duration
from research.training.evaluation import Evaluator
from research.training.loggers import Loggers
from research.training.state import TrainState
from research.training.step import Step


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """The config section `training`.

    batch_size: examples of one update, over all devices; or batch_tokens: tokens of either side of one update, padding
    included, for tasks with sequences of different length. buckets: static lengths that such sequences are padded to.
    duration: the length of the run.
    evaluate_every: how often the validation split is measured; the end always is.
    log_every: steps whose metrics are averaged into one line of `metrics.jsonl`.
    patience: stop after so many evaluations in a row without a new best of `checkpoint.best`.
    accumulate: micro-batches of one update. ema: decay of an average of the parameters that evaluation then uses.
    precision: dtypes of parameters and computation. workers: processes that read data (0: a thread).
    """

    duration: Duration
    batch_size: int | None = None
    batch_tokens: int | None = None
    buckets: int = 4
    evaluate_every: Duration | None = None
    patience: int | None = None
    log_every: int = 50
    accumulate: int = 1
    ema: float | None = None
    precision: str = "params=float32,compute=float32"
    workers: int = 0

    def __post_init__(self):
        if (self.batch_size is None) == (self.batch_tokens is None):
            raise UserError("training needs one of batch_size and batch_tokens: give exactly one")
        for name in ("batch_size", "batch_tokens", "buckets", "patience", "log_every", "accumulate"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"training.{name} is {value}: use 1 or more")


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything the loop needs, built from a config by `experiments.experiment`.

    abstract_state: shapes, dtypes and shardings. create_state: makes the state of step 0, already sharded.
    """

    folder: Path
    options: TrainingOptions
    step: Step
    mesh: Mesh
    clock: Clock
    batches: Batches
    validation: Sequence[Mapping[str, Any]] | None
    evaluator: Evaluator
    learning_rate: Callable[[int], jax.Array]
    abstract_state: TrainState
    create_state: Callable[[], TrainState]


@dataclasses.dataclass
class Timing:
    """Where a run's seconds went. Reading data and Python's own work cost time only while the device has nothing to
    do: `data` and `host` count just these moments."""

    steps: int = 0
    seconds: float = 0.0
    data: float = 0.0
    host: float = 0.0
    evaluation: float = 0.0
    checkpoint: float = 0.0
    compilation: float = 0.0

    @property
    def stepping(self) -> float:
        """Seconds of the steps themselves."""
        return max(self.seconds - self.evaluation - self.checkpoint - self.compilation, 1e-9)

    def report(self) -> dict[str, float]:
        """Figures for the end of a run."""
        return {
            "seconds": self.seconds,
            "steps_per_second": self.steps / self.stepping,
            "data_wait_percent": 100 * self.data / self.stepping,
            "host_milliseconds_per_step": 1000 * self.host / max(self.steps, 1),
            "evaluation_seconds": self.evaluation,
            "checkpoint_seconds": self.checkpoint,
            "compilation_seconds": self.compilation,
        }


def fit(run: Run, checkpoints: Checkpoints) -> tuple[TrainState, Timing]:
    """Trains to the end, from the newest checkpoint if there is one. Returns the last state and where time went."""
    latest = max(checkpoints.steps(), default=None)
    if latest is None:
        state, notes = run.create_state(), {}
    else:
        state, notes = checkpoints.restore(run.abstract_state, latest)
    start, total = latest or 0, len(run.batches)
    main_process = jax.process_index() == 0
    with Loggers(run.folder if main_process else None, start, total) as loggers:
        loop = _Loop(run, checkpoints, loggers, notes)
        return loop.run(state, start), loop.timing


class _Loop:
    """The mutable side of `fit`: the step in flight, sums since the last log line, the best result so far, clocks."""

    def __init__(self, run: Run, checkpoints: Checkpoints, loggers: Loggers, notes: Mapping[str, Any]):
        self.task_run, self.checkpoints, self.loggers = run, checkpoints, loggers
        self.sums = {name: np.array(pair) for name, pair in notes.get("sums", {}).items()}
        self.best, self.stale = notes.get("best"), notes.get("stale", 0)
        self.timing = Timing()
        shardings = jax.tree.map(lambda leaf: leaf.sharding, run.abstract_state)
        self.train_step = jax.jit(run.step.train, donate_argnums=0, out_shardings=(shardings, None))
        self.train_steps: dict[tuple, Callable] = {}
        self.logged = (time.perf_counter(), 0)
        options, clock, total = run.options, run.clock, len(run.batches)
        self.evaluate_every = clock.steps(options.evaluate_every) if options.evaluate_every else total
        self.save_every = clock.steps(checkpoints.policy.every) if checkpoints.policy.every else total
        self.evaluator = run.evaluator
        dataset = run.step.task.dataset(run.validation, train=False, seed=0) if run.validation is not None else None
        self.validation = dataset

    def run(self, state: TrainState, start: int) -> TrainState:
        """Dispatches a step, then reads the metrics of the one before: the device never waits for the host."""
        run, timing = self.task_run, self.timing
        place = functools.partial(place_batch, mesh=run.mesh)
        loader = load(run.batches, start, place, workers=run.options.workers)
        pending: tuple[int, Metrics] | None = None
        started = time.perf_counter()
        for step in range(start, len(run.batches)):
            if self._out_of_patience():
                break
            idle, began = _is_done(pending), time.perf_counter()
            batch = next(loader)
            timing.data += (time.perf_counter() - began) * idle
            train_step = self._compiled(state, batch)
            began = time.perf_counter()
            state, metrics = train_step(state, batch)
            timing.host += (time.perf_counter() - began) * _is_done(pending)
            if pending:
                self._read(*pending)
            pending = (step, metrics)
            if self._boundary(step + 1):
                self._read(*pending)
                pending = None
                self._at_boundary(state, step + 1)
            timing.steps += 1
            timing.seconds = time.perf_counter() - started
            self.loggers.advance(step + 1)
        return state

    def _compiled(self, state: TrainState, batch: Mapping[str, jax.Array]) -> Callable:
        """The train step for a batch of this shape, compiled when its first batch comes."""
        shape = tuple((name, array.shape) for name, array in batch.items())
        if shape not in self.train_steps:
            began = time.perf_counter()
            with jax.set_mesh(self.task_run.mesh):
                lowered = self.train_step.lower(state, batch)
            self.train_steps[shape] = lowered.compile()
            self._pause("compilation", began)
        return self.train_steps[shape]

    def _boundary(self, step: int) -> bool:
        every = (self.task_run.options.log_every, self.evaluate_every, self.save_every)
        return step == len(self.task_run.batches) or any(step % interval == 0 for interval in every)

    def _read(self, step: int, metrics: Metrics) -> None:
        for name, pair in jax.device_get(metrics).items():
            pair = np.asarray(pair, np.float64)
            if not np.isfinite(pair).all():
                raise UserError(self._diverged(step, name))
            self.sums[name] = self.sums.get(name, 0) + pair

    def _diverged(self, step: int, name: str) -> str:
        indices = self.task_run.batches.plan(step).indices
        listed = ", ".join(map(str, indices[:8])) + (", ..." if len(indices) > 8 else "")
        saved = max(self.checkpoints.steps(), default=None)
        good = "no checkpoint was saved before it" if saved is None else f"the last good checkpoint is step {saved}"
        return (
            f"{name} is not finite at step {step} (training examples {listed}); {good}: "
            "lower optimizer.learning_rate, lengthen schedule.warmup or set optimizer.clip_norm"
        )

    def _at_boundary(self, state: TrainState, step: int) -> None:
        run, last = self.task_run, step == len(self.task_run.batches)
        if step % run.options.log_every == 0 or last:
            self._log(step)
        measured: dict[str, float] = {}
        if self.validation is not None and (step % self.evaluate_every == 0 or last):
            began = time.perf_counter()
            values = self.evaluator.metrics(state.variables(), self.validation)
            measured = {f"validation/{name}": value for name, value in values.items()}
            self.loggers.write(step, measured)
            self._compare(measured)
            self._pause("evaluation", began)
        if step % self.save_every == 0 or last or (measured and self.checkpoints.policy.best):
            began = time.perf_counter()
            sums = {name: pair.tolist() for name, pair in self.sums.items()}
            notes = {"sums": sums, "best": self.best, "stale": self.stale}
            self.checkpoints.save(state, step, notes, measured)
            self._pause("checkpoint", began)

    def _compare(self, measured: Mapping[str, float]) -> None:
        name = self.checkpoints.policy.best
        if name is None:
            return
        if name not in measured:
            raise UserError(f"checkpoint.best {name!r} is not measured: use one of {', '.join(measured)}")
        if self.checkpoints.improves(measured[name], self.best):
            self.best, self.stale = measured[name], 0
        else:
            self.stale += 1

    def _out_of_patience(self) -> bool:
        patience = self.task_run.options.patience
        return patience is not None and self.stale >= patience

    def _log(self, step: int) -> None:
        means = {f"train/{name}": float(total / max(weight, 1e-12)) for name, (total, weight) in self.sums.items()}
        self.sums = {}
        means["train/learning_rate"] = float(self.task_run.learning_rate(step - 1))
        now, (then, steps) = time.perf_counter(), self.logged
        rate = (self.timing.steps - steps) / max(now - then, 1e-9)
        means["time/steps_per_second"] = rate
        means["time/examples_per_second"] = rate * self.task_run.clock.examples_per_step
        self.logged = (now, self.timing.steps)
        self.loggers.write(step, means)

    def _pause(self, name: str, began: float) -> None:
        """Books time that is not training's, so that it does not count in its speed."""
        elapsed = time.perf_counter() - began
        setattr(self.timing, name, getattr(self.timing, name) + elapsed)
        self.logged = (self.logged[0] + elapsed, self.logged[1])


def _is_done(pending: tuple[int, Metrics] | None) -> bool:
    """Whether the device has nothing to do: no step in flight, or one that is finished."""
    return pending is None or all(leaf.is_ready() for leaf in jax.tree.leaves(pending[1]))
