"""Many runs that differ only in numbers, trained together: one compiled step for all of them.

On accelerators the step is mapped over the runs with `vmap`; on a CPU, which gains nothing from wider products, they
take turns within one compiled loop, which is faster there and leaves each run's arithmetic as it is alone. Devices
share the runs among them.
"""

import contextlib
import dataclasses
import functools
import math
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from research.data.loader import Batches, load
from research.data.rows import Batch, Rows
from research.errors import UserError
from research.training.checkpoints import Checkpoints
from research.training.evaluation import Evaluator, means
from research.training.interruptions import Interrupted, Interruptions
from research.training.loggers import Loggers
from research.training.progress import Diverged, Progress
from research.training.run import Run
from research.training.state import TrainState
from research.training.step import Step

AXIS = "run"
Numbers = Mapping[str, Any]
"""Config path -> value; of all runs in one array, or traced."""


class Number(float):
    """A number of a model or task that differs between runs, while all of them are traced at once.

    Code that asks whether it is switched on (`if rate`, `rate == 0.0`) hears that it is. Its arithmetic is that of the
    traced value; to compare its size is a TypeError, since each run would need another answer.
    """

    traced: jax.Array

    def __new__(cls, traced: jax.Array) -> "Number":
        self = super().__new__(cls, math.nan)
        self.traced = traced
        return self

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def __jax_array__(self) -> jax.Array:
        return self.traced


def _arithmetic(name: str) -> None:
    function = getattr(operator, name)
    setattr(Number, f"__{name}__", lambda self, other: function(self.traced, other))
    setattr(Number, f"__r{name}__", lambda self, other: function(other, self.traced))


def _refused(self: Number, *other: object) -> bool:
    raise TypeError("its size decides what is computed")


for _name in ("add", "sub", "mul", "truediv", "pow"):
    _arithmetic(_name)
for _name in ("lt", "le", "gt", "ge", "float", "int"):
    setattr(Number, f"__{_name}__", _refused)


class Together:
    """What is compiled for all runs.

    step: the step functions for one run's numbers. create: its state of step 0, from them and from `taken_over`.
    number: of runs, at most.
    """

    def __init__(
        self,
        step: Callable[[Numbers], Step],
        create: Callable[[Numbers, Mapping[str, jax.Array]], TrainState],
        taken_over: Mapping[str, jax.Array],
        number: int,
    ):
        devices = np.array(jax.local_devices()[:number])
        self.mesh = Mesh(devices, (AXIS,), axis_types=(AxisType.Auto,))
        self.taken_over = taken_over
        self.create = self._mapped(create)
        self.train = self._mapped(lambda numbers, state, batch, _: step(numbers).train(state, batch), donate=1)
        self.evaluate = self._mapped(
            lambda numbers, variables, batch: step(numbers).inference.evaluate(variables, batch)
        )

    def _mapped(self, function: Callable, donate: int | None = None) -> Callable:
        """The function, jitted, over rows of all its arguments but the last, which is the same for all."""

        def over_rows(*arguments: Any) -> Any:
            *rows, shared = arguments

            def one(row: Sequence[Any]) -> Any:
                return function(*row, shared)

            return jax.lax.map(one, tuple(rows)) if jax.default_backend() == "cpu" else jax.vmap(one)(tuple(rows))

        def over_devices(*arguments: Any) -> Any:
            specs = (*[PartitionSpec(AXIS)] * (len(arguments) - 1), PartitionSpec())
            fields = {"mesh": self.mesh, "in_specs": specs, "out_specs": PartitionSpec(AXIS), "check_vma": False}
            return jax.shard_map(over_rows, **fields)(*arguments)

        chosen = over_devices if self.mesh.size > 1 else over_rows
        return jax.jit(chosen, donate_argnums=() if donate is None else donate)

    def rows(self, members: Sequence[Any]) -> list[Any]:
        """The members, the last one again and again until every device has the same number."""
        return [*members, *[members[-1]] * (-len(members) % self.mesh.size)]

    def place(self, tree: Any) -> Any:
        """Arrays on the devices, their leading axis split."""
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec(AXIS)))

    def stacked(self, trees: Sequence[Any]) -> Any:
        """One tree of all rows, placed."""
        return self.place(jax.tree.map(lambda *leaves: np.stack(leaves), *self.rows(trees)))

    def metrics(
        self, numbers: Sequence[Numbers], variables: Any, evaluator: Evaluator, rows: Rows
    ) -> list[dict[str, float]]:
        """The task's metrics on a split for each member; variables: theirs, stacked."""
        totals: dict[str, np.ndarray] = {}
        stacked = self.stacked(numbers)
        for batch in evaluator.batches(rows):
            for name, pair in jax.device_get(self.evaluate(stacked, variables, batch)).items():
                totals[name] = totals.get(name, 0) + np.asarray(pair, np.float64)
        return [means({name: pair[:, row] for name, pair in totals.items()}) for row in range(len(numbers))]


@dataclasses.dataclass
class Member:
    """One of the runs. numbers: what it has of its own. left: it diverged, or was told to leave."""

    run: Run
    checkpoints: Checkpoints
    numbers: Numbers
    left: bool = False


Watch = Callable[[Member, int, Mapping[str, float]], str | None]
"""Called with a member, a step and its validation metrics there; a reason makes the member leave."""

Leave = Callable[[Member, str], None]
"""Called with a member that leaves before its end, and why."""


def fit_together(members: Sequence[Member], together: Together, watch: Watch, leave: Leave) -> list[Member]:
    """Trains all members, each from its newest checkpoint if there is one, and returns those that came to their end.

    All runs have the same shapes, options and number of steps. Each logs, saves and resumes as if it were alone.
    Raises Interrupted after a signal, once all are saved; UserError where the numbers cannot be traced.
    """
    restored = [member.checkpoints.restore_newest(member.run.abstract_state) for member in members]
    starts = [found[2] if found else 0 for found in restored]
    with Interruptions() as interruptions, interruptions.deferred():
        for start in sorted(set(starts)):  # two where a kill came while they were being saved
            at_start = [index for index, other in enumerate(starts) if other == start]
            group = [members[index] for index in at_start]
            with contextlib.ExitStack() as stack:
                loop = _Loop(group, together, watch, leave, interruptions)
                state = loop.begin([restored[index] for index in at_start], start, stack)
                loop.run(state, start)
    for member in members:
        member.checkpoints.wait()
    return [member for member in members if not member.left]


class _Loop:
    """The loop over the steps of members that begin at the same one. `rows` are those whose state is in the arrays."""

    def __init__(
        self, members: Sequence[Member], together: Together, watch: Watch, leave: Leave, interruptions: Interruptions
    ):
        self.rows, self.together, self.interruptions = list(members), together, interruptions
        self.watch, self.leave = watch, leave
        self.first, self.total = members[0].run, len(members[0].run.batches)
        self.progress: dict[int, Progress] = {}
        self.done: set[int] = set()
        self.validation = self.first.evaluator.split(self.first.validation or ())

    def begin(self, restored: Sequence[Any], start: int, stack: contextlib.ExitStack) -> TrainState:
        """The stacked state at step `start`; the members' loggers stay open as long as the stack."""
        for member, found in zip(self.rows, restored, strict=True):
            every = member.run.options.log_every
            loggers = stack.enter_context(Loggers(member.run.folder, start, self.total, every=every, bar=False))
            progress = Progress(member.run, member.checkpoints, loggers, found[1] if found else {})
            self.progress[id(member)] = progress
            if progress.out_of_patience():
                self.done.add(id(member))
        if restored[0] is None:
            return self._traced(self.together.create, self.together.taken_over)
        return self.together.stacked([jax.device_get(found[0]) for found in restored])

    def run(self, state: TrainState, start: int) -> None:
        """As the loop of a single run: a step is dispatched, then the metrics of the one before are read."""
        batches: Any = _Stacked([member.run.batches for member in self.rows])
        loader = load(batches, start, lambda batch: batch)
        order = {id(member): index for index, member in enumerate(self.rows)}
        pending: tuple[int, Any] | None = None
        started = time.perf_counter()
        for step in range(start, self.total):
            if not self._alive():
                return
            mine = [order[id(member)] for member in self.together.rows(self.rows)]
            batch = self.together.place({name: array[np.array(mine)] for name, array in next(loader).items()})
            state, metrics = self._traced(self.together.train, state, batch, None)
            if pending:
                self._read(*pending)
            pending = (step, metrics)
            stopped = self.interruptions.reached(step + 1)
            if stopped or self._progress(self.rows[0]).boundary(step + 1):
                self._read(*pending)
                pending = None
                state = self._boundary(state, step + 1)
            for member in self.rows:
                self._progress(member).advance(step + 1, time.perf_counter() - started)
            if stopped:
                self._stop(state, step + 1)

    def _traced(self, function: Callable, *arguments: Any) -> Any:
        """What a function of the numbers gives. Raises UserError where they cannot be traced."""
        try:
            return function(self._numbers(), *arguments)
        except (TypeError, jax.errors.ConcretizationTypeError) as error:
            paths = ", ".join(path for path in self.rows[0].numbers if path != "seed")
            raise UserError(
                f"one of {paths} decides what is computed ({str(error).splitlines()[0][:100]}): trials that differ in "
                "it cannot be trained together, use --launcher=local"
            ) from error

    def _read(self, step: int, metrics: Any) -> None:
        metrics = jax.device_get(metrics)
        for row, member in self._alive():
            try:
                self._progress(member).read(step, {name: (a[row], b[row]) for name, (a, b) in metrics.items()})
            except Diverged as error:
                self._end(member, str(error))

    def _boundary(self, state: TrainState, step: int) -> TrainState:
        """Logs, evaluates and saves what is due; then those that leave make room. Returns the state of who stays."""
        evaluates = self._progress(self.rows[0]).evaluates(step)
        for _, member in self._alive():
            self._progress(member).log(step)
        began = time.perf_counter()
        fetched = functools.cache(lambda: jax.device_get(state))  # once, and only where something is saved
        values = self._measured(state) if evaluates else [{}] * len(self.rows)
        if evaluates and self._progress(self.rows[0]).scores(step):
            for row, _ in self._alive():
                values[row] |= self.first.evaluator.scores(_row(fetched(), row).variables(), self.validation)
        for row, member in self._alive():
            progress = self._progress(member)
            progress.pause("evaluation", began)
            try:
                progress.finish(lambda row=row: _row(fetched(), row), step, values[row])
            except Diverged as error:
                self._end(member, str(error))
                continue
            reason = self.watch(member, step, values[row]) if evaluates and step < self.total else None
            if reason:
                self._end(member, reason)
            elif progress.out_of_patience():
                self.done.add(id(member))
        alive = self._alive()
        if not alive or len(alive) > len(self.rows) // 2:  # each time costs a compilation
            return state
        self.rows = [member for _, member in alive]
        return self.together.stacked([_row(fetched(), row) for row, _ in alive])

    def _measured(self, state: TrainState) -> list[dict[str, float]]:
        numbers = [member.numbers for member in self.rows]
        return self.together.metrics(numbers, state.variables(), self.first.evaluator, self.validation.rows)

    def _stop(self, state: TrainState, step: int) -> None:
        host = jax.device_get(state)
        for row, member in self._alive():
            try:
                self._progress(member).save(_row(host, row), step)
                member.checkpoints.wait()
            except Diverged as error:
                self._end(member, str(error))
        where = f"at step {step} of {self.total}, which is saved"
        raise Interrupted(f"stopped by {self.interruptions.name} {where}: the same command resumes")

    def _end(self, member: Member, reason: str) -> None:
        member.left = True
        self.done.add(id(member))
        member.checkpoints.wait()
        self.leave(member, reason)

    def _numbers(self) -> Numbers:
        return self.together.stacked([member.numbers for member in self.rows])

    def _progress(self, member: Member) -> Progress:
        return self.progress[id(member)]

    def _alive(self) -> list[tuple[int, Member]]:
        return [(row, member) for row, member in enumerate(self.rows) if id(member) not in self.done]


def _row(tree: Any, row: int) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf[row]), tree)  # a number stays an array


class _Stacked:
    """The batches of several runs as one sequence of arrays [run, batch, ...]; equal ones are read once."""

    def __init__(self, batches: Sequence[Batches]):
        self._batches = batches
        self._different = {id(each): each for each in batches}

    def __len__(self) -> int:
        return len(self._batches[0])

    def examples(self, step: int) -> str:
        """Those of the first run, for messages."""
        return self._batches[0].examples(step)

    def __getitem__(self, step: int) -> Batch:
        read = {key: batches[step] for key, batches in self._different.items()}
        rows = [read[id(batches)] for batches in self._batches]
        if len({tuple((name, array.shape) for name, array in row.items()) for row in rows}) > 1:
            raise UserError(
                f"trials have batches of different shapes at step {step}: let task.mixup and the like be 0 for all "
                "or for none, use one seed, or --launcher=local"
            )
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
