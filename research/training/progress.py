"""The bookkeeping of a run: sums since the last log line, the best result so far, what is due after a step, clocks."""

import contextlib
import functools
import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from research.analysis.utilization import peak
from research.errors import UserError
from research.tasks.task import Metrics
from research.training.checkpoints import Checkpoints
from research.training.evaluation import Split, means
from research.training.fingerprint import not_finite
from research.training.limits import peak_memory
from research.training.loggers import Loggers
from research.training.run import Run
from research.training.state import TrainState
from research.training.timing import Timing

MAX_SKIPPED = 20
"""Updates skipped in a row until the run stops."""


class Diverged(UserError):
    """A loss, gradient, metric or parameter that is not finite, or too many skipped updates."""


class Progress:
    """What a run knows of itself between its steps; `notes` are those of the checkpoint it resumes from."""

    def __init__(self, run: Run, checkpoints: Checkpoints, loggers: Loggers, notes: Mapping[str, Any]):
        devices = run.mesh.devices.flat
        of_one = peak(devices[0], run.step.precision.compute)
        self.timing = Timing(peak=of_one and of_one * len(devices))
        self._run, self._checkpoints, self._loggers = run, checkpoints, loggers
        self._sums = {name: np.array(pair) for name, pair in notes.get("sums", {}).items()}
        self._best, self._stale, self._skipped = notes.get("best"), notes.get("stale", 0), notes.get("skipped", 0)
        self._saved: int | None = None
        self._logged = (time.perf_counter(), 0, 0.0)
        options, clock, total = run.options, run.clock, len(run.batches)
        self._evaluate_every = clock.steps(options.evaluate_every) if options.evaluate_every else total
        self._save_every = clock.steps(checkpoints.policy.every) if checkpoints.policy.every else total
        scorer, best = run.step.task.scorer(), (checkpoints.policy.best or "").removeprefix("validation/")
        self._best_is_score = scorer is not None and best in scorer.names
        # Unless they are asked for, scores are those of the end, which are measured from its checkpoint.
        self._score_every = self._evaluate_every if self._best_is_score else total + 1
        if options.score_every:
            self._score_every = clock.steps(options.score_every)

    def boundary(self, step: int) -> bool:
        """Whether something is due after `step` steps: `log` and `finish` have to be called then."""
        every = (self._run.options.log_every, self._evaluate_every, self._score_every, self._save_every)
        return step == len(self._run.batches) or any(step % interval == 0 for interval in every)

    def evaluates(self, step: int) -> bool:
        """Whether the validation split is to be measured after `step` steps."""
        every = (self._evaluate_every, self._score_every)
        due = step == len(self._run.batches) or any(step % interval == 0 for interval in every)
        return self._run.validation is not None and due

    def scores(self, step: int) -> bool:
        """Whether its answers are to be scored too."""
        last = step == len(self._run.batches)
        return step % self._score_every == 0 or (last and self._best_is_score)

    @functools.cached_property
    def validation(self) -> Split:
        """The validation split."""
        return self._run.evaluator.split(self._run.validation or ())

    def measured(self, state: TrainState, step: int) -> dict[str, float]:
        """What is due of the validation split's metrics after `step` steps."""
        if not self.evaluates(step):
            return {}
        return self._run.evaluator.measure(state.variables(), self.validation, scores=self.scores(step))

    def read(self, step: int, metrics: Metrics) -> None:
        """Adds the metrics of a step, counted from 0. Raises Diverged where they end the run."""
        sums = {name: np.asarray(pair, np.float64) for name, pair in jax.device_get(metrics).items()}
        skipped = sums.pop("skipped")
        wrong = next((f"{name} is not finite" for name, pair in sums.items() if not np.isfinite(pair).all()), None)
        if skipped[0] and wrong is None:
            wrong = f"grad_norm {sums['grad_norm'][0]:.3g} is over training.spike times its average"
        policy = self._run.options.on_divergence
        if wrong and (policy == "stop" or not skipped[0]):
            raise Diverged(self._diverged(step, wrong))
        if policy == "skip":
            self._skip(step, wrong)
            sums = {"skipped": skipped} if wrong else sums | {"skipped": skipped}
        for name, pair in sums.items():
            self._sums[name] = self._sums.get(name, 0) + pair

    def _skip(self, step: int, wrong: str | None) -> None:
        self._skipped = self._skipped + 1 if wrong else 0
        if wrong and self._skipped == MAX_SKIPPED:
            raise Diverged(f"{MAX_SKIPPED} updates in a row were skipped; {self._diverged(step, wrong)}")
        if wrong:
            examples = self._run.batches.examples(step)
            print(f"warning: step {step} (training examples {examples}) is skipped: {wrong}", file=sys.stderr)

    def _diverged(self, step: int, wrong: str) -> str:
        with contextlib.suppress(UserError):  # one that fails is not a good one
            self._checkpoints.wait()
        saved = max(self._checkpoints.steps(), default=None)
        good = "no checkpoint was saved before it" if saved is None else f"the last good checkpoint is step {saved}"
        return (
            f"{wrong} at step {step} (training examples {self._run.batches.examples(step)}); {good}: "
            "lower optimizer.learning_rate, lengthen schedule.warmup or set optimizer.clip_norm"
        )

    def log(self, step: int) -> None:
        """Writes the means since the last line if that is due after `step` steps."""
        if step % self._run.options.log_every and step != len(self._run.batches):
            return
        line = {f"train/{name}": value for name, value in means(self._sums).items()}
        self._sums = {}
        line["train/learning_rate"] = float(self._run.learning_rate(step - 1))
        now, (then, steps, operations) = time.perf_counter(), self._logged
        rate = (self.timing.steps - steps) / max(now - then, 1e-9)
        line["time/steps_per_second"] = rate
        line["time/examples_per_second"] = rate * self._run.clock.examples_per_step
        if self._run.clock.tokens_per_step:
            line["time/tokens_per_second"] = rate * self._run.clock.tokens_per_step
        if self.timing.peak is not None and self.timing.operations:
            line["time/mfu_percent"] = self.timing.utilization(self.timing.operations - operations, now - then)
        line |= {f"time/{name}_peak_gibibytes": size / 2**30 for name, size in peak_memory().items()}
        self._logged = (now, self.timing.steps, self.timing.operations)
        self._loggers.write(step, line)

    def finish(self, state: Callable[[], TrainState], step: int, validation: Mapping[str, float]) -> None:
        """Saves what `state` gives if that is due after `step` steps. validation: metrics measured there, if any.

        Raises Diverged where the state, or the metric that decides which is the best, is not finite.
        """
        measured = {f"validation/{name}": value for name, value in validation.items()}
        if measured:
            self._loggers.write(step, measured)
            self._compare(measured, step)
        last = step == len(self._run.batches)
        compared = self._checkpoints.policy.best in measured
        kept = bool(step % self._save_every == 0 or last or compared)
        if kept or (step % self._run.options.log_every == 0 and self._checkpoints.due()):
            self.save(state(), step, measured, kept=kept)

    def save(self, state: TrainState, step: int, measured: Mapping[str, float] = {}, *, kept: bool = False) -> None:
        """Saves the state of a step, unless that was done; `kept` for more than resuming.

        Raises Diverged for one that is not finite: the metrics of an update tell nothing of what it led to.
        """
        if self._saved == step:
            return
        began = time.perf_counter()
        if wrong := not_finite(state):
            raise Diverged(self._diverged(step - 1, f"{wrong[0]} is not finite"))
        sums = {name: pair.tolist() for name, pair in self._sums.items()}
        notes = {"sums": sums, "best": self._best, "stale": self._stale, "skipped": self._skipped}
        notes["belongings"] = dict(self._run.belongings)
        self._checkpoints.save(state, step, notes, measured, kept=kept)
        self._saved = step
        self.pause("checkpoint", began)

    def _compare(self, measured: Mapping[str, float], step: int) -> None:
        name = self._checkpoints.policy.best
        if name is None or (self._best_is_score and not self.scores(step)):
            return
        if name not in measured:
            raise UserError(f"checkpoint.best {name!r} is not measured: use one of {', '.join(measured)}")
        if not math.isfinite(measured[name]):
            raise Diverged(self._diverged(step - 1, f"{name} is not finite"))
        if self._checkpoints.improves(measured[name], self._best):
            self._best, self._stale = measured[name], 0
        else:
            self._stale += 1

    def out_of_patience(self) -> bool:
        """Whether `training.patience` evaluations in a row brought no new best."""
        patience = self._run.options.patience
        return patience is not None and self._stale >= patience

    def advance(self, step: int, seconds: float, operations: int = 0) -> None:
        """Counts a step that was dispatched, and its operations; `seconds` since the start."""
        self.timing.steps += 1
        self.timing.operations += operations
        self.timing.seconds = seconds
        self._loggers.advance(step)

    def pause(self, name: str, began: float) -> None:
        """Books time that is not training's, so that it does not count in its speed."""
        elapsed = time.perf_counter() - began
        setattr(self.timing, name, getattr(self.timing, name) + elapsed)
        then, steps, operations = self._logged
        self._logged = (then + elapsed, steps, operations)
