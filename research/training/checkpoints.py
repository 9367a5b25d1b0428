"""Checkpoints: Orbax's atomic, asynchronous saves, verified when they are read, and what is kept of them."""

import contextlib
import dataclasses
import math
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from research.errors import UserError
from research.files import fits, inside
from research.parallel.sharding import by_path
from research.ranges import AFTERWARDS, Count, Positive
from research.training.durations import Interval
from research.training.fingerprint import Contents, contents, not_finite, sealed, unsealed
from research.training.folders import Held, check_files, merge_parts, plain
from research.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class CheckpointPolicy:
    """The config section `checkpoint`.

    every: how often to save; the last step is always saved. keep: how many of the latest to keep.
    every_minutes: how often to save besides, for resuming alone: such a checkpoint goes when the next one is there.
    best: a validation metric such as "validation/loss" whose best checkpoint is kept too, and which the final
    evaluation reads. mode: whether the best is the lowest or the highest.
    average: the final evaluation reads the mean of this number of the latest checkpoints instead (Vaswani et al. 2017,
    section 6.1).
    """

    every: Interval | None = None
    every_minutes: Annotated[Positive | None, AFTERWARDS] = 10.0
    keep: Count = 2
    best: str | None = None
    mode: Literal["min", "max"] = "min"
    average: Count = 1

    def __post_init__(self):
        if self.average > self.keep:
            raise UserError(
                f"checkpoint.average is {self.average} and checkpoint.keep {self.keep}: keep at least as many"
            )


UNFINISHED = ".orbax-checkpoint-tmp"
"""In the name of a folder that is being written or deleted; Orbax's word."""

_STEP = re.compile(r"0|[1-9][0-9]{0,17}")
_STORED = {"notes": dict, "metrics": dict[str, float], "kept": bool, "contents": dict[str, dict[str, list[int] | int]]}


class Damaged(UserError):
    """A checkpoint that cannot be read, or that is not what was saved."""


class Checkpoints:
    """The checkpoints of one run. Use as a context manager: leaving it waits for a save in flight.

    Each holds notes beside its arrays: what the loop needs to resume, validation metrics, whether it is kept for more
    than resuming, and a fingerprint of the arrays, all under a checksum. Nothing outside the folder is read.
    """

    def __init__(self, folder: Path, policy: CheckpointPolicy = CheckpointPolicy(), *, write: bool = True):
        self.policy = policy
        self._folder, self._write = folder.absolute(), write
        self._in_flight: tuple[ocp.AsyncResponse[None], int, dict[str, Any]] | None = None
        self._saved = time.monotonic()
        self._stored: dict[int, dict[str, Any]] = {}
        self._damaged: dict[int, str] = {}
        if not inside(self._folder, self._folder.parent):
            raise UserError(f"{self._folder} leads out of the run's folder: move the checkpoints into it")
        self._plain = plain(self._folder)
        if write and jax.process_index() == 0:
            self._make(self._folder)
            for path in self._folder.glob(f"*{UNFINISHED}*"):  # what a killed save left behind
                _delete(path)
            for step in self._found():
                with contextlib.suppress(Damaged), self._damage(step):
                    check_files(self._folder / str(step))
                    merge_parts(self._plain / str(step))
        if write and jax.process_count() > 1:
            multihost_utils.sync_global_devices("opened")  # process 0 may still be deleting older checkpoints
        self._held = Held(self._folder.parent, self._folder) if write else Held()
        for step in self._found():
            self._look(step)

    def _found(self) -> list[int]:
        return [int(path.name) for path in self._folder.glob("*") if _STEP.fullmatch(path.name)]

    def _make(self, folder: Path) -> None:
        """Raises UserError where the run's folder is gone or another thing has the folder's name."""
        try:
            folder.mkdir(exist_ok=True)
        except FileExistsError:
            raise UserError(f"{folder} is not a folder: move it away and run the same command again") from None
        except FileNotFoundError:
            raise UserError(f"{folder.parent} does not exist any more: move it back, or start anew") from None

    def _look(self, step: int) -> None:
        try:
            stored = unsealed(self._metadata(step).custom_metadata)
        except Damaged as error:
            self._damaged[step] = str(error)
            return
        finite = {name: value for name, value in stored["metrics"].items() if math.isfinite(value)}
        self._stored[step] = stored | {"metrics": finite}

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *exception: Any) -> None:
        try:
            self.wait()
        except UserError:
            if kind is None:  # otherwise what went wrong first is the better message
                raise
        finally:
            self._held.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns a failed write into a UserError."""
        try:
            yield
        except (ValueError, OSError, RuntimeError) as error:  # TensorStore has no error class of its own
            self._held.check()
            words = " ".join(str(error).split())
            full = "No space left" in words or "quota exceeded" in words
            reason = "no space left on the disk" if full else words.partition("; ")[0][:200]
            saved = self.steps()
            raise UserError(
                f"a checkpoint cannot be written to {self._folder} ({reason}); "
                + (f"the last good one is step {saved[-1]}" if saved else "none was saved before")
                + f": {'make room' if full else 'see to the disk'} and run the same command again"
            ) from error

    def steps(self) -> list[int]:
        """The steps that can be restored, ascending."""
        return sorted(step for step in self._stored if (self._folder / str(step)).is_dir())

    def contents(self, step: int) -> Contents:
        """The shape and the sum of bits of each array of a step, as they were saved."""
        return self._stored[step]["contents"]

    def check_belongs(self, step: int, belongings: Mapping[str, int]) -> None:
        """Raises UserError where the run's config or vocabulary is not what the arrays of `step` were trained with.

        belongings: checksums by name, as the notes of the checkpoint hold them under this word.
        """
        for name, then in self._stored[step]["notes"].get("belongings", {}).items():
            if belongings.get(name, then) != then:
                raise UserError(
                    f"{self._folder.parent / name} is not what the checkpoint of step {step} was trained with: restore "
                    "it from a copy"
                )

    def evaluation_steps(self, which: int | str | None = None) -> list[int]:
        """The steps whose mean is evaluated: the latest `policy.average`, the best by `policy.best`, or the latest.

        which: that step, or "best" or "last", instead. Raises Damaged where a checkpoint that could be one of them
        cannot be read, and UserError for one that is not there.
        """
        if isinstance(which, int):
            if which not in self.steps():
                there = ", ".join(map(str, self.steps())) or "none"
                raise UserError(f"{self._folder} has no checkpoint of step {which} that can be read: use {there}")
            return [which]
        for step, reason in self._damaged.items():
            raise Damaged(f"{reason}: move {self._folder / str(step)} away to do without it")
        kept = [step for step in self.steps() if self._stored[step]["kept"]] or self.steps()[-1:]
        best = self._best(kept)
        if which == "best" and not best:
            raise UserError(
                f"{self._folder} has no best checkpoint, as the config's checkpoint.best is {self.policy.best}: use "
                "--last, or --step"
            )
        return kept[-1:] if which == "last" else best or kept[-self.policy.average :]

    def _best(self, steps: Sequence[int]) -> list[int]:
        metrics = {step: self._stored[step]["metrics"] for step in steps}
        scored = {step: values[self.policy.best] for step, values in metrics.items() if self.policy.best in values}
        if not scored or self.policy.average > 1:
            return []
        best = min(scored.values()) if self.policy.mode == "min" else max(scored.values())
        return [max(step for step, value in scored.items() if value == best)]

    def improves(self, value: float, best: float | None) -> bool:
        """Whether a validation result is better than the best before it."""
        return best is None or (value < best if self.policy.mode == "min" else value > best)

    def due(self) -> bool:
        """Whether `policy.every_minutes` have passed since the last save, by the clock of process 0."""
        if self.policy.every_minutes is None:
            return False
        due = time.monotonic() - self._saved >= 60 * self.policy.every_minutes
        return bool(multihost_utils.broadcast_one_to_all(due)) if jax.process_count() > 1 else due

    def save(
        self, state: TrainState, step: int, notes: Mapping[str, Any], metrics: Mapping[str, float], *, kept: bool = True
    ) -> None:
        """Starts saving and returns once the state is copied; the files are complete later, or not visible at all.

        notes: JSON kept beside the arrays. metrics: validation metrics of this step, if it was evaluated.
        kept: counts for `policy.keep`, `best` and `average`; otherwise it is there to resume from.

        Raises UserError where the folder was deleted, moved or replaced, or cannot be written.
        """
        self.wait()
        self._held.check()
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        stored = {"notes": dict(notes), "metrics": finite, "kept": kept, "contents": contents(state)}
        with self._explained():
            # pyrefly: ignore[bad-argument-type]
            saving = ocp.save_async(f"{self._plain}/{step}", state, custom_metadata=sealed(stored))
        self._in_flight = saving, step, stored
        self._saved = time.monotonic()

    def wait(self) -> None:
        """Returns once the save in flight is complete, and then deletes what the policy does not keep."""
        if self._in_flight is None:
            return
        (saving, step, stored), self._in_flight = self._in_flight, None
        with self._explained():
            saving.result()
        self._held.check()
        self._stored[step] = stored
        kept = [step for step in self.steps() if self._stored[step]["kept"]]
        wanted = {*kept[-self.policy.keep :], *self._best(kept), *self.steps()[-1:]}
        for step in {*self._stored} - wanted:
            del self._stored[step]
            if jax.process_index() == 0:
                with contextlib.suppress(FileNotFoundError):  # somebody else did
                    _delete((self._folder / str(step)).rename(self._folder / f"{step}{UNFINISHED}"))

    def restore_newest(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any], int] | None:
        """State, notes and step of the newest checkpoint that is what was saved; None where there is no checkpoint.

        Damaged ones that are newer are set aside, with a warning: nothing that was saved is deleted.
        """
        unread = sorted([*self.steps(), *self._damaged])
        while unread:
            step = unread.pop()
            try:
                return *self.restore(abstract, step), step
            except Damaged as error:
                self._damaged[step] = str(error)
            if any(earlier in self._stored for earlier in unread):
                self._set_aside(step)
        if self._damaged:
            raise UserError(
                f"no checkpoint in {self._folder} can be read ({next(iter(self._damaged.values()))}): "
                "restore the folder from a copy, or use another --workdir to start anew"
            )
        return None

    def restore(self, abstract: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        """The state at `step`, laid out as `abstract` (shapes, dtypes and shardings) says, and its notes."""
        state = self._restore(abstract, step)
        return state, self._stored[step]["notes"]

    def restore_variables(self, abstract: TrainState, step: int) -> dict[str, Any]:
        """What the model is applied with at `step`, the optimizer's state left unread."""
        parts = ("params", "model_state") if abstract.ema is None else ("ema", "model_state")
        loaded = self._restore({part: getattr(abstract, part) for part in parts}, step)
        return {"params": loaded[parts[0]], **loaded["model_state"]}

    def restore_mean(self, abstract: TrainState, steps: Sequence[int]) -> dict[str, Any]:
        """The mean of `restore_variables` of several steps: two copies in memory, however many they are."""
        variables = self.restore_variables(abstract, steps[0])
        for count, step in enumerate(steps[1:], 2):
            newer = self.restore_variables(abstract, step)
            variables = jax.tree.map(lambda mean, new, count=count: mean + (new - mean) / count, variables, newer)
        return variables

    def _restore(self, wanted: Any, step: int) -> Any:
        """The state, or a dict of parts of it. Raises Damaged, or UserError where it has other arrays than wanted."""
        if step in self._damaged:
            raise Damaged(self._damaged[step])
        parts = {path.partition("/")[0] for path in by_path(wanted)}
        expected = self._stored[step]["contents"]
        if isinstance(wanted, dict):
            expected = {path: array for path, array in expected.items() if path.partition("/")[0] in parts}
        _check_fits(expected, wanted, step)
        stored = self._metadata(step).metadata
        with self._damage(step):
            if isinstance(wanted, dict):
                rest = {part: jax.tree.map(lambda _: ocp.PLACEHOLDER, stored[part]) for part in stored}
                # pyrefly: ignore[bad-argument-type]
                whole: Any = ocp.load(f"{self._plain}/{step}", rest | wanted)
                loaded = {part: whole[part] for part in wanted}
            else:
                loaded = ocp.load(f"{self._plain}/{step}", wanted)
            if contents(loaded) != expected:
                raise ValueError("its arrays are not what was saved")
            if wrong := not_finite(loaded):
                raise ValueError(f"{wrong[0]} is not finite")
        return loaded

    def _metadata(self, step: int) -> Any:
        with self._damage(step):
            check_files(self._folder / str(step))
            metadata = ocp.metadata(f"{self._plain}/{step}")
            stored = unsealed(metadata.custom_metadata)
            if not all(name in stored and fits(stored[name], hint) for name, hint in _STORED.items()):
                raise ValueError("its notes are of another program")
            return metadata

    @contextlib.contextmanager
    def _damage(self, step: int) -> Iterator[None]:
        """Turns what reading raises into Damaged: a damaged file can lead a library to any error."""
        try:
            yield
        except (MemoryError, PermissionError, jax.errors.JaxRuntimeError):  # the machine's doing, not the file's
            raise
        except Exception as error:
            words = " ".join(str(error).split())[:120] or type(error).__name__
            raise Damaged(f"the checkpoint of step {step} is damaged ({words})") from error

    def _set_aside(self, step: int) -> None:
        reason = self._damaged.pop(step)
        self._stored.pop(step, None)
        print(f"warning: {reason}; going on from the one before", file=sys.stderr, flush=True)
        if not self._write:
            return
        if jax.process_index() == 0:
            aside = self._folder.with_name("checkpoints_damaged")
            if not inside(aside, self._folder.parent):
                raise UserError(f"{aside} leads out of the run's folder: move it away")
            self._make(aside)
            (self._folder / str(step)).rename(aside / f"{step}-{time.time_ns()}")
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("set aside")


def _delete(path: Path) -> None:
    """Deletes a folder, or whatever else has its name; a link's target stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _check_fits(stored: Contents, abstract: Any, step: int) -> None:
    """Raises UserError naming the first array whose shape differs between the checkpoint and the config."""
    have = {path: tuple(array["shape"]) for path, array in stored.items()}
    want = {path: tuple(leaf.shape) for path, leaf in by_path(abstract).items() if hasattr(leaf, "shape")}
    for path in sorted(have.keys() | want.keys(), key=lambda path: (not path.startswith("params"), path)):
        if have.get(path) != want.get(path):
            raise UserError(
                f"the checkpoint of step {step} does not fit the config: {path} is {have.get(path, 'absent')} there "
                f"and {want.get(path, 'absent')} here: use the model, optimizer and training.ema it was trained with"
            )
