"""The training loop: one for every experiment."""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

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
from research.training.interruptions import Interrupted, Interruptions
from research.training.loggers import Loggers
from research.training.state import TrainState
from research.training.step import Step
from research.training.timing import Timing

MAX_SKIPPED = 20
"""Updates skipped in a row until the run stops."""


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
    on_divergence: what follows an update whose loss or gradient is not finite: the run stops, or the update is skipped.
    spike: gradients whose norm exceeds so many times its moving average count as such too.
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
    on_divergence: Literal["stop", "skip"] = "stop"
    spike: float | None = None

    def __post_init__(self):
        if (self.batch_size is None) == (self.batch_tokens is None):
            raise UserError("training needs one of batch_size and batch_tokens: give exactly one")
        for name in ("batch_size", "batch_tokens", "buckets", "patience", "log_every", "accumulate"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"training.{name} is {value}: use 1 or more")
        if self.on_divergence not in ("stop", "skip"):
            raise UserError(f'training.on_divergence is {self.on_divergence!r}: use "stop" or "skip"')
        if self.spike is not None and not self.spike > 1:
            raise UserError(f"training.spike is {self.spike}: use a number above 1, such as 10")


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

    def compile_step(self, batch: Mapping[str, jax.Array | jax.ShapeDtypeStruct]) -> jax.stages.Compiled:
        """The train step for batches of this shape; it takes (state, batch), whose state it overwrites."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
        with jax.set_mesh(self.mesh):
            jitted = jax.jit(self.step.train, donate_argnums=0, out_shardings=(shardings, None))
            return jitted.lower(self.abstract_state, batch).compile()


def fit(run: Run, checkpoints: Checkpoints) -> tuple[TrainState, Timing]:
    """Trains to the end, from the newest checkpoint if there is one. Returns the last state and where time went.

    Raises Interrupted after a signal, once the state is saved.
    """
    state, notes, start = checkpoints.restore_newest(run.abstract_state) or (run.create_state(), {}, 0)
    total = len(run.batches)
    main_process = jax.process_index() == 0
    with Loggers(run.folder if main_process else None, start, total) as loggers:
        loop = _Loop(run, checkpoints, loggers, notes)
        with Interruptions() as interruptions, interruptions.deferred():
            return loop.run(state, start, interruptions), loop.timing


class _Loop:
    """The mutable side of `fit`: the step in flight, sums since the last log line, the best result so far, clocks."""

    def __init__(self, run: Run, checkpoints: Checkpoints, loggers: Loggers, notes: Mapping[str, Any]):
        self.task_run, self.checkpoints, self.loggers = run, checkpoints, loggers
        self.sums = {name: np.array(pair) for name, pair in notes.get("sums", {}).items()}
        self.best, self.stale, self.skipped = notes.get("best"), notes.get("stale", 0), notes.get("skipped", 0)
        self.saved: int | None = None
        self.timing = Timing()
        self.train_steps: dict[tuple, Callable] = {}
        self.logged = (time.perf_counter(), 0)
        options, clock, total = run.options, run.clock, len(run.batches)
        self.evaluate_every = clock.steps(options.evaluate_every) if options.evaluate_every else total
        self.save_every = clock.steps(checkpoints.policy.every) if checkpoints.policy.every else total
        self.evaluator = run.evaluator
        dataset = run.step.task.dataset(run.validation, train=False, seed=0) if run.validation is not None else None
        self.validation = dataset

    def run(self, state: TrainState, start: int, interruptions: Interruptions) -> TrainState:
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
            train_step = self._compiled(batch)
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
            if interruptions.reached(step + 1):
                if pending:
                    self._read(*pending)
                self._stop(state, step + 1, interruptions.name)
        return state

    def _stop(self, state: TrainState, step: int, name: str) -> None:
        if self.saved != step:
            self._save(state, step, {}, kept=False)
        self.checkpoints.wait()
        total = len(self.task_run.batches)
        raise Interrupted(f"stopped by {name} at step {step} of {total}, which is saved: the same command goes on")

    def _compiled(self, batch: Mapping[str, jax.Array]) -> Callable:
        """The train step for a batch of this shape, compiled when its first batch comes."""
        shape = tuple((name, array.shape) for name, array in batch.items())
        if shape not in self.train_steps:
            began = time.perf_counter()
            self.train_steps[shape] = self.task_run.compile_step(batch)
            self._pause("compilation", began)
        return self.train_steps[shape]

    def _boundary(self, step: int) -> bool:
        every = (self.task_run.options.log_every, self.evaluate_every, self.save_every)
        return step == len(self.task_run.batches) or any(step % interval == 0 for interval in every)

    def _read(self, step: int, metrics: Metrics) -> None:
        sums = {name: np.asarray(pair, np.float64) for name, pair in jax.device_get(metrics).items()}
        skipped = sums.pop("skipped")
        wrong = next((f"{name} is not finite" for name, pair in sums.items() if not np.isfinite(pair).all()), None)
        if skipped[0] and wrong is None:
            wrong = f"grad_norm {sums['grad_norm'][0]:.3g} is over training.spike times its average"
        policy = self.task_run.options.on_divergence
        if wrong and (policy == "stop" or not skipped[0]):
            raise UserError(self._diverged(step, wrong))
        if policy == "skip":
            self._skip(step, wrong)
            sums = {"skipped": skipped} if wrong else sums | {"skipped": skipped}
        for name, pair in sums.items():
            self.sums[name] = self.sums.get(name, 0) + pair

    def _skip(self, step: int, wrong: str | None) -> None:
        self.skipped = self.skipped + 1 if wrong else 0
        if self.skipped == MAX_SKIPPED:
            raise UserError(f"{MAX_SKIPPED} updates in a row were skipped; {self._diverged(step, wrong)}")
        if wrong:
            examples = self.task_run.batches.examples(step)
            print(f"warning: step {step} (training examples {examples}) is skipped: {wrong}", file=sys.stderr)

    def _diverged(self, step: int, wrong: str) -> str:
        saved = max(self.checkpoints.steps(), default=None)
        good = "no checkpoint was saved before it" if saved is None else f"the last good checkpoint is step {saved}"
        return (
            f"{wrong} at step {step} (training examples {self.task_run.batches.examples(step)}); {good}: "
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
        kept = bool(step % self.save_every == 0 or last or (measured and self.checkpoints.policy.best))
        if kept or (step % run.options.log_every == 0 and self.checkpoints.due()):
            self._save(state, step, measured, kept=kept)

    def _save(self, state: TrainState, step: int, measured: Mapping[str, float], *, kept: bool) -> None:
        began = time.perf_counter()
        sums = {name: pair.tolist() for name, pair in self.sums.items()}
        notes = {"sums": sums, "best": self.best, "stale": self.stale, "skipped": self.skipped}
        self.checkpoints.save(state, step, notes, measured, kept=kept)
        self.saved = step
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
