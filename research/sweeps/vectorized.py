"""Trains all trials of a sweep that differ only in numbers together, in one compiled program."""

import contextlib
import copy
import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from research.config import choose, diff, load
from research.data.loader import Batches
from research.errors import UserError
from research.files import write_json
from research.runs.experiment import Experiment, build_experiment
from research.runs.folder import LAUNCH_ONLY, claim, data_of, write_manifest
from research.sweeps.study import Study, Trial
from research.training.checkpoints import Checkpoints
from research.training.durations import Duration
from research.training.evaluation import check_finite
from research.training.loggers import read_metrics
from research.training.optimizers import OPTIMIZERS, build_optimizer
from research.training.run import Run
from research.training.schedules import SCHEDULES
from research.training.state import TrainState
from research.training.step import Step
from research.training.vectorized import Member, Number, Numbers, Together, fit_together

WHOLE = ("seed", "schedule.warmup")
"""Paths of whole numbers that decide no shape."""

TRACED = ("seed", "optimizer.", "schedule.", "model.", "task.", "training.ema", "training.spike")
"""What paths of numbers that are traced begin with: others decide what is read, or when something is done."""

PRUNED = "pruned"


class Apart(UserError):
    """Trials that no program can train together, though each of them can be trained alone."""


def work_together(study: Study, say: Callable[[Trial], None]) -> None:
    """Runs all waiting trials of the study to their end; `say` hears of each that has ended.

    Raises UserError where trials differ in more than numbers, Apart before anything is trained where they cannot be
    trained together, and Interrupted after a signal, once all are saved.
    """
    if study.plan.sampler in ("tpe", "cmaes"):
        raise UserError(f"--sampler={study.plan.sampler} waits for results, and these come all at once: use random")
    trials: list[Trial] = []
    try:
        while trial := study.claim():
            trials.append(trial)
        if trials:
            _train(study, trials, say)
    finally:
        for trial in trials:
            if not study.frozen(trial.number).state.is_finished():
                trial.release()


def _train(study: Study, trials: Sequence[Trial], say: Callable[[Trial], None]) -> None:
    with contextlib.ExitStack() as stack:
        experiments, members = [], []
        for trial in trials:
            config = load(trial.spec, trial.overrides)
            stack.enter_context(claim(trial.folder, config))
            config.mesh = {}  # a trial is on one device
            experiments.append(build_experiment(config, trial.folder, jax.local_devices()[:1]))
        group = _Group(experiments)
        data = data_of(group.first.source)  # of all trials: they differ in numbers of the training alone
        for experiment in experiments:
            checkpoints = Checkpoints(experiment.folder / "checkpoints", experiment.checkpoint)
            members.append(Member(group.run(experiment), stack.enter_context(checkpoints), group.numbers(experiment)))
            write_manifest(experiment.folder, experiment.seed, data)
        trial_of = {id(member): trial for member, trial in zip(members, trials, strict=True)}
        began = time.monotonic()

        def seconds() -> float:
            return time.monotonic() - began

        def watch(member: Member, step: int, values: Mapping[str, float]) -> str | None:
            name = study.plan.objective.removeprefix("validation/")
            if name not in values:
                return None
            rows = read_metrics(member.run.folder / "metrics.jsonl")
            evaluation = sum(study.plan.objective in row for row in rows)
            return PRUNED if trial_of[id(member)].report(evaluation, values[name]) else None

        def leave(member: Member, reason: str) -> None:
            trial = trial_of[id(member)]
            trial.note(seconds=seconds())
            trial.prune() if reason == PRUNED else trial.fail(reason)
            say(trial)

        staying = fit_together(members, group.together, watch, leave)
        for member, results in zip(staying, group.results(staying), strict=True):
            try:
                check_finite(results)
            except UserError as error:
                leave(member, str(error))
                continue
            write_json(member.run.folder / "results.json", results)
            trial = trial_of[id(member)]
            trial.note(seconds=seconds())
            trial.book(results)
            say(trial)


class _Group:
    """What the trials share, and what each has of its own. Raises UserError where they differ in more than numbers."""

    def __init__(self, experiments: Sequence[Experiment]):
        self.experiments = {experiment.folder: experiment for experiment in experiments}
        self.first = experiments[0]
        if self.first.distillation is not None:
            raise Apart("trials with a teacher cannot be trained together: use --launcher=local")
        if self.first.config.training.get("accumulate") == "auto":
            raise Apart("trials that choose training.accumulate cannot be trained together: use --launcher=local")
        if self.first.tracker is not None:
            raise Apart("trials with a tracker cannot be trained together: use --launcher=local")
        changes = [path for other in experiments for path, *_ in diff(self.first.config, other.config)]
        self.paths = _paths(change for change in changes if not change.startswith(LAUNCH_ONLY))
        for path in self.paths:
            kind = int if path in WHOLE else float
            traced = [path.startswith(TRACED) and type(self._value(each, path)) is kind for each in experiments]
            if not all(traced):
                value = _stated(experiments[traced.index(False)], path)
                raise UserError(
                    f"trials differ in {path} ({value!r}), which decides what is computed: only numbers such as "
                    "optimizer.learning_rate, model.dropout or seed can; leave it out, or use --launcher=local"
                )
        if "seed" in self.paths and len(getattr(self.first.batches.plan, "buckets", ())) > 1:
            raise Apart(
                "trials of several seeds read batches of different lengths: use training.buckets=1 or --launcher=local"
            )
        taken_over = self.first.taken_over(self.first.run.abstract_state)
        self.together = Together(self._step, self._create, taken_over, len(experiments))
        self._batches: dict[str, Batches] = {}

    def numbers(self, experiment: Experiment) -> Numbers:
        """What a trial has of its own: path -> float32 or int32."""
        kinds = {float: np.float32, int: np.int32}
        values = {path: self._value(experiment, path) for path in self.paths}
        return {path: kinds[type(value)](value) for path, value in values.items()} or {
            "seed": np.int32(experiment.seed)
        }

    def run(self, experiment: Experiment) -> Run:
        """A trial's run; shapes and compiled functions are the first one's."""
        parts = _parts(experiment)
        factor = parts["schedule"].build(len(self.first.batches), self.first.run.clock)
        rate = parts["optimizer"].learning_rate
        own = {name: getattr(experiment, name) for name in ("folder", "options", "belongings")}
        of_its_own: dict[str, Any] = dict(own)
        config = experiment.config.to_dict()
        key = json.dumps([config.get("seed"), config["task"]])
        if key not in self._batches:  # reading and encoding the data again would take longer than some trials
            self._batches[key] = experiment.batches
        of_its_own |= {"batches": self._batches[key], "learning_rate": lambda step: rate * factor(step)}
        return dataclasses.replace(self.first.run, **of_its_own)

    def results(self, members: Sequence[Member]) -> list[dict[str, float]]:
        """The results of trials that came to their end, as `experiments.evaluate` measures them."""
        if not members:
            return []
        experiments = [self.experiments[member.run.folder] for member in members]
        pairs = zip(experiments, members, strict=True)
        abstract = self.first.run.abstract_state
        variables = [
            jax.device_get(experiment.variables(member.checkpoints, abstract)[0]) for experiment, member in pairs
        ]
        stacked, numbers = self.together.stacked(variables), [member.numbers for member in members]
        results: list[dict[str, float]] = [{} for _ in members]
        for split in (split for split in self.first.source.splits if split != "train"):
            part = self.first.evaluator.split(self.first.examples(split))
            measured = self.together.metrics(numbers, stacked, self.first.evaluator, part.rows)
            for own, metrics, mine, experiment in zip(results, measured, variables, experiments, strict=True):
                metrics |= experiment.evaluator.scores(mine, part)
                own |= {f"{split}/{name}": value for name, value in metrics.items()}
        return results

    def _value(self, experiment: Experiment, path: str) -> Any:
        if path == "seed":
            return experiment.seed
        section, *names = path.split(".")
        value = _parts(experiment).get(section)
        for name in names:
            value = getattr(value, name, None)
        return self.first.run.clock.steps(value) if isinstance(value, Duration) else value

    def _traced(self, numbers: Numbers) -> dict[str, Any]:
        """The first trial's parts with one trial's numbers in them."""
        parts = _parts(self.first)
        for path in self.paths:
            section, *names = path.split(".")
            if section in ("model", "task"):
                parts[section] = _replaced(parts[section], names, Number(numbers[path]))
            elif names:
                parts[section] = _replaced(parts[section], names, numbers[path])
        return parts

    def _step(self, numbers: Numbers) -> Step:
        parts, first = self._traced(numbers), self.first.run
        factor = parts["schedule"].build(len(first.batches), first.clock)
        options = parts["training"]
        return dataclasses.replace(
            first.step,
            model=parts["model"],
            task=parts["task"],
            optimizer=build_optimizer(parts["optimizer"], factor),
            seed=numbers.get("seed", self.first.seed),
            ema=options.ema,
            spike=options.spike,
        )

    def _create(self, numbers: Numbers, taken_over: Mapping[str, jax.Array]) -> TrainState:
        optimizer = self._step(numbers).optimizer
        return self.first.create_state(optimizer, numbers.get("seed"))(taken_over)


def _parts(experiment: Experiment) -> dict[str, Any]:
    config = experiment.config
    return {
        "model": experiment.model,
        "task": experiment.task,
        "optimizer": choose(OPTIMIZERS, config.optimizer, "optimizer"),
        "schedule": choose(SCHEDULES, config.get("schedule", {"name": "constant"}), "schedule"),
        "training": experiment.options,
    }


def _stated(experiment: Experiment, path: str) -> Any:
    """What the config says at a path, None where it says nothing."""
    value = experiment.config.to_dict()
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _paths(changes: Iterable[str]) -> list[str]:
    """Each path once; a duration in whichever unit is one number, of steps."""
    return sorted({"schedule.warmup" if path.startswith("schedule.warmup") else path for path in changes})


def _replaced(part: Any, names: Sequence[str], value: Any) -> Any:
    """A copy of a part with another value at a path. Its own checks are left out: a traced value has no size."""
    name, *rest = names
    old = getattr(part, name)
    new = _replaced(old, rest, value) if rest else value
    if isinstance(part, nn.Module):
        return part.clone(**{name: new})
    if isinstance(old, Duration):
        new = copy.copy(old)
        for unit in dataclasses.fields(Duration):
            object.__setattr__(new, unit.name, value if unit.name == "steps" else None)
    part = copy.copy(part)
    object.__setattr__(part, name, new)
    return part
