"""What a sweep is, and its trials in a database that any number of processes work on together.

Every trial is in the study from the start, waiting, so that the number of trials is exact however many processes take
from it. A trial belongs to the process that holds its lock, `trials/0007.lock`, which the system takes back when the
process ends, however it ends: whoever comes next resumes what a dead process had begun.
"""

import contextlib
import math
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from research.config import diff
from research.errors import UserError, one_line
from research.files import inside, read_text
from research.locks import Lock, locked, try_lock
from research.search_space import Point
from research.sweeps.cmaes_sampler import CmaEsSampler
from research.sweeps.database import (
    DATABASE_ERRORS,
    cause,
    check_file,
    check_study,
    check_trials,
    sqlite_url,
    without_password,
)
from research.sweeps.plan import SEED, Plan
from research.sweeps.space import encode, overrides, spec_of, suggest
from research.training.loggers import number

CELL = 200
"""Characters of a text from outside in a table, and of the reason why a trial has failed."""


class Trial:
    """A trial that this process holds. Exactly one of `complete`, `prune`, `fail` and `release` ends that."""

    def __init__(self, study: "Study", trial: optuna.trial.Trial, lock: Lock):
        self._study, self._trial, self._lock = study, trial, lock
        self.number = trial.number
        self.point = suggest(trial, study.plan.space)
        self.folder = study.trial_folder(self.number)
        self.log = self.folder.with_suffix(".log")
        self.spec = spec_of(study.plan.spec, self.point)
        self.overrides = {**study.plan.given, **overrides(self.point)}
        self._reported = set(study.frozen(self.number).intermediate_values)

    @property
    def notes(self) -> dict[str, Any]:
        """What `note` has stored, also by processes that held the trial before."""
        return self._trial.user_attrs

    def note(self, **notes: Any) -> None:
        """Stores values beside the trial: `seconds`, `failures`, `reason`."""
        for name, value in notes.items():
            self._trial.set_user_attr(name, value)

    def report(self, evaluation: int, value: float) -> bool:
        """Stores the objective after the `evaluation`th validation (1, 2, ...); True where the pruner gives it up."""
        if evaluation in self._reported:
            return False
        self._reported.add(evaluation)
        self._trial.report(value, evaluation)
        return self._trial.should_prune()

    def complete(self, value: float) -> None:
        """The trial has come to its end with this objective."""
        self._end(TrialState.COMPLETE, value)

    def book(self, results: Mapping[str, float]) -> None:
        """The trial has come to its end with these results. Raises UserError where the objective is not among them."""
        objective = self._study.plan.objective
        if not results:
            return self.fail(f"{objective} is missing")
        if objective not in results:
            raise UserError(f"--objective={objective} is not measured: use one of {', '.join(results)}")
        value = number(results[objective])
        finite = value is not None and math.isfinite(value)
        self.complete(value) if finite else self.fail(f"{objective} is {results[objective]}")

    def prune(self) -> None:
        """The trial was given up; its last report stays as its value."""
        self._end(TrialState.PRUNED)

    def fail(self, reason: str) -> None:
        """The trial cannot be run; of the reason one short line is kept."""
        self.note(reason=one_line(reason, CELL))
        self._end(TrialState.FAIL)

    def release(self) -> None:
        """The trial is left as it is, for this process or another to resume."""
        self._study.drop(self._lock)

    def _end(self, state: TrialState, value: float | None = None) -> None:
        self._trial.study.tell(self.number, value, state)
        self.release()


class Study:
    """The study in `folder`, made or joined. Use it in a `with`: it beats as long as it is open.

    storage: a database's URL; without it `folder/study.db`. Raises UserError for a folder or database that holds
    another sweep, or that cannot be opened.
    """

    def __init__(self, folder: Path, plan: Plan, storage: str | None = None):
        self.folder, self.plan = folder.resolve(), plan
        self._held: set[Lock] = set()
        points = plan.points()
        try:
            (self.folder / "trials").mkdir(parents=True, exist_ok=True)
            with self.locked():
                if not storage:
                    check_file(self.folder / "study.db")
                self._open(storage or sqlite_url(self.folder / "study.db"), points)
        except OSError as error:
            raise UserError(f"--workdir {folder} cannot be written ({error.strerror}): use another folder") from error

    def _open(self, url: str, points: Sequence[Point]) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        self._name, shown = self.folder.name, without_password(url)
        waits = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
        points = [{path: encode(value) for path, value in point.items()} for point in points]
        try:
            self._storage = optuna.storages.get_storage(optuna.storages.RDBStorage(url, engine_kwargs=waits))
            study = self._load(create=True)
            check_study(study, self.plan.direction)
            self._id = self._storage.get_study_id_from_name(self._name)
        except Exception as error:  # Optuna and SQLAlchemy end in anything where the rows are not what they expect
            raise UserError(f"the study {shown} cannot be opened ({cause(error)}): use another --storage") from error
        try:
            known, trials = study.user_attrs, study.get_trials(deepcopy=False)
        except DATABASE_ERRORS:  # a server that is gone is not the rows' fault
            raise
        except Exception as error:
            raise UserError(f"the study {shown} cannot be read ({cause(error)}): use another --storage") from error
        self._check_sweep(study, known)
        try:
            check_trials(trials, points, self.plan.space)
        except Exception as error:
            raise UserError(
                f"the study {shown} is not that of this sweep ({cause(error)}): use another --workdir or --storage"
            ) from error
        if len(points) < len(trials):
            raise UserError(f"{self.folder} has {len(trials)} trials already: use --trials={len(trials)} or more")
        there = [trial.user_attrs["point"] for trial in trials]
        for point in points:
            if point in there:
                there.remove(point)
            else:
                study.enqueue_trial(point, user_attrs={"point": point})

    def _check_sweep(self, study: optuna.Study, known: Mapping[str, Any]) -> None:
        """Writes whose study it is into a new one, and compares that with what is `known` of another."""
        identity, described = _identity(self.folder), self.plan.describe()
        if "folder" not in known:
            study.set_user_attr("folder", identity)
        if known.get("folder", identity) != identity:
            raise UserError(
                f"the database holds a study {self._name} of another folder: rename {self.folder}, "
                "or use another --storage"
            )
        if "sweep" not in known:
            study.set_user_attr("sweep", described)
            study.set_metric_names([self.plan.objective])
        if not isinstance(known.get("sweep", {}), dict):
            raise UserError(f"the study {self._name} is not one of a sweep: use another --storage")
        if changes := diff(known.get("sweep", described), described):
            path, there, here = changes[0]
            raise UserError(
                f"{self.folder} holds another sweep ({path} is {there!r} there and {here!r} here): "
                "use another --workdir, or the command it had"
            )

    def _load(self, number: int = 0, *, create: bool = False) -> optuna.Study:
        """Optuna's study with samplers of the trial: what it chooses depends on its number and the results before."""
        sampler, pruner = _sampler(self.plan.sampler, SEED + number), _pruner(self.plan.pruner)
        fields = {"study_name": self._name, "storage": self._storage, "sampler": sampler, "pruner": pruner}
        if create:
            return optuna.create_study(**fields, direction=self.plan.direction, load_if_exists=True)
        return optuna.load_study(**fields)

    def __enter__(self) -> "Study":
        return self

    def __exit__(self, *error: Any) -> None:
        for lock in list(self._held):
            self.drop(lock)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes of the sweep from doing the same at once."""
        with locked(self.folder / ".lock"):
            yield

    def trial_folder(self, number: int) -> Path:
        """Where the run of a trial is."""
        return self.folder / "trials" / f"{number:04d}"

    def optuna(self) -> optuna.Study:
        """The study itself, for Optuna's own tools."""
        return self._load()

    def frozen(self, number: int) -> FrozenTrial:
        """A trial as the database has it."""
        return self._storage.get_trial(self._trial_id(number))

    def trials(self) -> list[FrozenTrial]:
        """All trials as the database has them, in order."""
        return self._storage.get_all_trials(self._id)

    def claim(self) -> Trial | None:
        """The first trial that waits, or that a dead process had begun; None where there is none left to take."""
        open_states = (TrialState.WAITING, TrialState.RUNNING)
        for frozen in self._storage.get_all_trials(self._id, states=open_states):
            lock = self._take(frozen.number)
            if lock is None:
                continue
            try:  # another process may have finished it in the meantime
                finished = self.frozen(frozen.number).state.is_finished()
                if not finished and frozen.state == TrialState.WAITING and not self._begin(frozen.number):
                    self.drop(lock, leave=True)
                elif not finished:
                    trial = optuna.trial.Trial(self._load(frozen.number), self._trial_id(frozen.number))
                    return Trial(self, trial, lock)
            except BaseException:
                self.drop(lock)
                raise
            self.drop(lock)
        return None

    def _begin(self, number: int) -> bool:
        """Whether this process, and no other, has made a waiting trial a running one."""
        return self._storage.set_trial_state_values(self._trial_id(number), TrialState.RUNNING)

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._id, number)

    def _take(self, number: int) -> Lock | None:
        """The trial's lock, unless a living process has it. Raises UserError for a trial whose files lie elsewhere."""
        self._check_place(number)
        lock = try_lock(self.trial_folder(number).with_suffix(".lock"))
        if lock:
            self._held.add(lock)
        return lock

    def _check_place(self, number: int) -> None:
        folder = self.trial_folder(number)
        for path, kind in ((folder, Path.is_dir), (folder.with_suffix(".log"), Path.is_file)):
            if not inside(path, self.folder):
                raise UserError(f"{path} leads out of {self.folder}: move it away, and run the command again")
            if path.exists() and not kind(path):
                raise UserError(f"{path} is in the way: move it away, and run the command again")

    def drop(self, lock: Lock, *, leave: bool = False) -> None:
        """Gives a trial's lock back, or leaves it to another machine."""
        self._held.discard(lock)
        lock.leave() if leave else lock.release()


def _identity(folder: Path) -> str:
    """A random text that tells the folder from others of its name: that of the first process that asked."""
    path, new = folder / "study.id", folder / f".{uuid.uuid4().hex}"
    if not inside(path, folder):
        raise UserError(f"{path} leads out of its folder: move it away, or use another --workdir")
    if not path.exists():
        new.write_text(new.name[1:])
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(new)  # whole or not at all, also on a file system without locks
        new.unlink()
    return read_text(path)


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    if name == "cmaes":
        return CmaEsSampler(seed)
    return optuna.samplers.RandomSampler(seed=seed)


def _pruner(name: str) -> optuna.pruners.BasePruner:
    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, reduction_factor=3)
    return optuna.pruners.MedianPruner() if name == "median" else optuna.pruners.NopPruner()
