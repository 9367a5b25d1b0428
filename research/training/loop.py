"""The training loop: one for every experiment."""

import time
from collections.abc import Mapping

import jax

from research.data.loader import load
from research.tasks.task import Metrics
from research.training.checkpoints import Checkpoints
from research.training.interruptions import Interrupted, Interruptions
from research.training.loggers import Loggers
from research.training.progress import Progress
from research.training.run import Run
from research.training.state import TrainState
from research.training.timing import Timing
from research.training.trackers import Tracked


def fit(run: Run, checkpoints: Checkpoints, tracked: Tracked | None = None) -> tuple[TrainState, Timing]:
    """Trains to the end, from the newest checkpoint if there is one. Returns the last state and where time went.

    tracked: a record elsewhere of what is logged.

    Raises Interrupted after a signal, once the state is saved.
    """
    first = 0
    if found := checkpoints.restore_newest(run.abstract_state):
        state, notes, start = found
        checkpoints.check_belongs(start, run.belongings)
    else:
        state, notes = run.create_state(), {}
        start = first = int(state.step)  # more than 0 where another run's whole state was taken over
    main_process = jax.process_index() == 0
    folder, every = run.folder if main_process else None, run.options.log_every
    with Loggers(folder, start, len(run.batches), first=first, every=every, tracked=tracked) as loggers:
        progress = Progress(run, checkpoints, loggers, notes)
        with Interruptions() as interruptions, interruptions.deferred():
            return _train(run, checkpoints, progress, interruptions, state, start), progress.timing


def _train(
    run: Run,
    checkpoints: Checkpoints,
    progress: Progress,
    interruptions: Interruptions,
    state: TrainState,
    start: int,
) -> TrainState:
    """Dispatches a step, then reads the metrics of the one before: the device never waits for the host."""
    timing, total = progress.timing, len(run.batches)
    loader = load(run.batches, start, run.place, workers=run.options.workers)
    train_steps: dict[tuple, tuple[jax.stages.Compiled, int]] = {}
    pending: tuple[int, Metrics] | None = None
    started = time.perf_counter()
    for step in range(start, total):
        if progress.out_of_patience():
            break
        idle, began = _is_done(pending), time.perf_counter()
        batch = next(loader)
        timing.data += (time.perf_counter() - began) * idle
        train_step, operations = _compiled(run, progress, train_steps, batch)
        began = time.perf_counter()
        state, metrics = train_step(state, batch, run.taught)
        timing.host += (time.perf_counter() - began) * _is_done(pending)
        if pending:
            progress.read(*pending)
        pending = (step, metrics)
        if progress.boundary(step + 1):
            progress.read(*pending)
            pending = None
            progress.log(step + 1)
            began = time.perf_counter()
            measured = progress.measured(state, step + 1)
            progress.pause("evaluation", began)
            progress.finish(lambda state=state: state, step + 1, measured)
        progress.advance(step + 1, time.perf_counter() - started, operations)
        if interruptions.reached(step + 1):
            if pending:
                progress.read(*pending)
            progress.save(state, step + 1)
            checkpoints.wait()
            where = f"at step {step + 1} of {total}, which is saved"
            raise Interrupted(f"stopped by {interruptions.name} {where}: the same command resumes")
    return state


def _compiled(
    run: Run,
    progress: Progress,
    train_steps: dict[tuple, tuple[jax.stages.Compiled, int]],
    batch: Mapping[str, jax.Array],
) -> tuple[jax.stages.Compiled, int]:
    """The train step for a batch of this shape, compiled when its first batch comes, and its operations.

    These are counted where there is a peak to compare them with, since that traces the step once more.
    """
    shape = tuple((name, array.shape) for name, array in batch.items())
    if shape not in train_steps:
        began = time.perf_counter()
        train_steps[shape] = run.compile_step(batch), run.operations(batch) if progress.timing.peak else 0
        progress.pause("compilation", began)
    return train_steps[shape]


def _is_done(pending: tuple[int, Metrics] | None) -> bool:
    """Whether the device has nothing to do: no step in flight, or one that is finished."""
    return pending is None or all(leaf.is_ready() for leaf in jax.tree.leaves(pending[1]))
