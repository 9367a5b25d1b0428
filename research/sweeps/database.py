"""A sweep's database as data: whoever wrote it, it holds the trials of this sweep or is refused in one sentence.

Optuna checks nothing of what it reads. All of it is read and looked at once, when the study is opened: what comes later
reads the same rows again.
"""

import contextlib
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
import sqlalchemy
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from research.errors import UserError
from research.files import fits, inside
from research.search_space import Space
from research.sweeps.space import distribution

DATABASE_ERRORS = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)

NOTES = {"point": dict[str, Any], "seconds": float, "failures": int, "reason": str}
"""What a trial's user attributes hold; only the point is always there."""


def cause(error: BaseException) -> str:
    """The first line of what an error came from, or its kind where it says nothing."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).partition("\n")[0] or type(error).__name__


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Makes one sentence of a database that fails."""
    try:
        yield
    except DATABASE_ERRORS as error:
        raise UserError(
            f"the study's database fails ({cause(error)}): see to it, and the same command resumes"
        ) from error


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file, whatever its path holds: SQLAlchemy reads "?" and "%" in one, and Optuna braces."""
    return f"sqlite:///{quote(str(path))}"


def without_password(url: str) -> str:
    """A database's URL as one may show it."""
    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return "of --storage"  # where in it the password is nobody knows


def check_file(path: Path) -> None:
    """Raises UserError where `path`, or a file that SQLite keeps beside it, is a pipe, a folder or a link that leads
    away, or where a query of the database would start a program of whoever made it (SQL of views and triggers)."""
    for each in (path, *(path.with_name(path.name + end) for end in ("-journal", "-wal", "-shm"))):
        if each.is_symlink() or each.exists():
            if not inside(each, path.parent):
                raise UserError(f"{each} leads out of its folder: move it away, or use another --workdir")
            if not each.is_file():
                raise UserError(f"{each} is not a file: move it away, or use another --workdir")
    if path.exists():
        query = "SELECT name FROM sqlite_master WHERE type IN ('view', 'trigger')"
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path, timeout=60)) as connection:
            if found := connection.execute(query).fetchone():  # what is not a database is told when it is opened
                raise UserError(f"{path} has a view or trigger {found[0]!r}, as no sweep makes: use another --workdir")


def check_study(study: optuna.Study, direction: str) -> None:
    """Raises ValueError for a study of several objectives, or of another direction."""
    if [one.name.lower() for one in study.directions] != [direction]:
        raise ValueError("it was made to find something else")


def check_trials(trials: Sequence[FrozenTrial], points: Sequence[Mapping[str, Any]], space: Space) -> None:
    """Raises ValueError unless these are trials of the points, in order, as a sweep over the space leaves them.

    points: with values as Optuna stores them; there may be more than there are trials.
    """
    left = list(points)
    for number, trial in enumerate(trials):
        if trial.number != number:
            raise ValueError(f"trial {number} is missing")
        if wrong := _wrong(trial, space):
            raise ValueError(f"trial {number} is none of this sweep: its {wrong}")
        if len(trials) <= len(points):  # otherwise too few were asked for
            if trial.user_attrs["point"] not in left:
                raise ValueError(f"trial {number} is none of this sweep: its point")
            left.remove(trial.user_attrs["point"])


def _wrong(trial: FrozenTrial, space: Space) -> str | None:
    """What of a trial cannot be what a sweep over the space has written."""
    notes, point = trial.user_attrs, trial.user_attrs.get("point")
    if point is None or not all(fits(notes[name], hint) for name, hint in NOTES.items() if name in notes):
        return "notes"
    if trial.system_attrs.get("fixed_params") != point:
        return "point"
    rungs = [value for name, value in trial.system_attrs.items() if name.startswith("completed_rung")]
    steps, values = list(trial.intermediate_values), list(trial.intermediate_values.values())
    if trial.constraints or not fits(steps, list[int]) or not fits(rungs + values, list[float]):
        return "reports"
    for path, value in trial.params.items():
        if path not in space or trial.distributions[path] != distribution(space[path]):
            return f"parameter {path}"
        listed = isinstance(trial.distributions[path], CategoricalDistribution)
        if point.get(path, value) != value or not (listed or _between(value, trial.distributions[path])):
            return f"value of {path}"
    complete = trial.state == TrialState.COMPLETE
    if trial.value is None:
        return "missing value" if complete else None
    return None if fits(trial.value, float) and (math.isfinite(trial.value) or not complete) else "value"


def _between(value: Any, ends: Any) -> bool:
    return fits(value, float) and ends.low <= value <= ends.high
