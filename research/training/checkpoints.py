"""Checkpoints: Orbax's atomic, asynchronous saves, what is kept of them, and clear words when one does not fit."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from research.errors import UserError
from research.training.durations import Duration
from research.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class CheckpointPolicy:
    """The config section `checkpoint`.

    every: how often to save; the last step is always saved. keep: how many of the latest to keep.
    best: a validation metric such as "validation/loss" whose best checkpoint is kept too, and which the final
    evaluation reads. mode: whether the best is the lowest or the highest.
    average: the final evaluation reads the mean of so many of the latest checkpoints instead (Vaswani et al. 2017,
    section 6.1).
    """

    every: Duration | None = None
    keep: int = 2
    best: str | None = None
    mode: str = "min"
    average: int = 1

    def __post_init__(self):
        if self.keep < 1:
            raise UserError(f"checkpoint.keep is {self.keep}: use 1 or more")
        if not 1 <= self.average <= self.keep:
            raise UserError(
                f"checkpoint.average is {self.average} and checkpoint.keep {self.keep}: keep at least as many"
            )
        if self.mode not in ("min", "max"):
            raise UserError(f'checkpoint.mode {self.mode!r} is unknown: use "min" or "max"')


class Checkpoints:
    """The checkpoints of one run, newest last. Use as a context manager: leaving it waits for a save in flight."""

    def __init__(self, folder: Path, policy: CheckpointPolicy = CheckpointPolicy(), *, write: bool = True):
        self.policy = policy
        keep = [ocp.training.preservation_policies.LatestN(n=policy.keep)]
        if policy.best:
            keep.append(
                ocp.training.preservation_policies.BestN(
                    get_metric_fn=lambda metrics: metrics[policy.best],
                    reverse=policy.mode == "min",
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self._checkpointer = ocp.training.Checkpointer(
            folder.absolute(),
            preservation_policy=ocp.training.preservation_policies.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=write,  # what a killed save left behind
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *exception: Any) -> None:
        try:
            with self._explained():
                self._checkpointer.close()
        except UserError:
            if kind is None:  # otherwise what went wrong first is the better message
                raise

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns a failed write into a UserError. Orbax reports one of the background at the next call."""
        try:
            yield
        except (ValueError, OSError, RuntimeError) as error:  # TensorStore has no error class of its own
            words = " ".join(str(error).split())
            reason = "no space left on the disk" if "No space left" in words else words.partition("; ")[0][:200]
            saved = self.steps()
            raise UserError(
                f"a checkpoint cannot be written to {self._checkpointer.directory} ({reason}); "
                + (f"the last good one is step {saved[-1]}" if saved else "none was saved before")
                + ": make room and run the same command again"
            ) from error

    def steps(self) -> list[int]:
        """The steps that can be restored, ascending."""
        return sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)

    def evaluation_steps(self) -> list[int]:
        """The steps whose mean is evaluated: the latest `policy.average`, the best by `policy.best`, or the latest."""
        if self.policy.average > 1:
            return self.steps()[-self.policy.average :]
        scored = {
            checkpoint.step: checkpoint.metrics[self.policy.best]
            for checkpoint in self._checkpointer.checkpoints
            if self.policy.best and checkpoint.metrics and self.policy.best in checkpoint.metrics
        }
        if not scored:
            return self.steps()[-1:]
        best = min(scored.values()) if self.policy.mode == "min" else max(scored.values())
        return [max(step for step, value in scored.items() if value == best)]

    def improves(self, value: float, best: float | None) -> bool:
        """Whether a validation result is better than the best before it."""
        return best is None or (value < best if self.policy.mode == "min" else value > best)

    def save(self, state: TrainState, step: int, notes: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Starts saving and returns once the state is copied; the files are complete later, or not visible at all.

        notes: JSON kept beside the arrays. metrics: validation metrics of this step, if it was evaluated.
        """
        with self._explained():
            self._checkpointer.save_async(
                step, state, force=True, overwrite=False, metrics=dict(metrics) or None, custom_metadata=dict(notes)
            )

    def restore(self, abstract: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        """The state at `step`, laid out as `abstract` (shapes, dtypes and shardings) says, and its notes."""
        metadata = self._checkpointer.metadata(step)
        _check_fits(metadata.metadata, abstract, step)
        return self._checkpointer.load(step, abstract), dict(metadata.custom_metadata or {})

    def restore_variables(self, abstract: TrainState, step: int) -> dict[str, Any]:
        """What the model is applied with at `step`, the optimizer's state left unread."""
        stored = self._checkpointer.metadata(step).metadata
        parts = ("params", "model_state") if abstract.ema is None else ("ema", "model_state")
        wanted = {part: getattr(abstract, part) for part in parts}
        _check_fits({part: stored[part] for part in parts}, wanted, step)
        rest = {part: jax.tree.map(lambda _: ocp.PLACEHOLDER, stored[part]) for part in stored if part not in parts}
        loaded = self._checkpointer.load(step, {**rest, **wanted})
        return {"params": loaded[parts[0]], **loaded["model_state"]}


def _check_fits(stored: Any, abstract: Any, step: int) -> None:
    """Raises UserError naming the first array whose shape differs between the checkpoint and the config."""

    def shapes(tree) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {_path(path): tuple(leaf.shape) for path, leaf in leaves if hasattr(leaf, "shape")}

    have, want = shapes(stored), shapes(abstract)
    for path in sorted(have.keys() | want.keys(), key=lambda path: (not path.startswith("params"), path)):
        if have.get(path) != want.get(path):
            raise UserError(
                f"the checkpoint of step {step} does not fit the config: {path} is {have.get(path, 'absent')} there "
                f"and {want.get(path, 'absent')} here: use the model and optimizer sections it was trained with"
            )


def _path(path: tuple) -> str:
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
