"""All runs below a folder as tables of a database in memory, for questions in SQL."""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from research.config import diff
from research.errors import UserError
from research.reports.records import Record, read_run
from research.reports.run_folders import runs_of
from research.training.loggers import number

SCHEMA = """
create table runs (run text primary key, state text, seed integer, step integer, seconds real, started text,
                   packages text, devices text, git_commit text);
create table results (run text, metric text, value real);
create table metrics (run text, step integer, metric text, value real);
create table config (run text, path text, value text);
"""
"""`results` are those of the end, or while there are none the last validation's; `metrics` is the log."""

READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
ROWS = 10_000


def query(root: Path, sql: str) -> tuple[list[str], list[Sequence[Any]]]:
    """The names of the columns and the rows of one SELECT over `SCHEMA`. Reads files, and writes nowhere.

    Raises UserError for a folder that is not there, for what is not a SELECT and for more than `ROWS` rows.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: give the folder that holds the runs")
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.executescript(SCHEMA)
        for found in runs_of(root).values():
            if not found.sweep:
                _insert(database, found.name or ".", read_run(found.folder, root=root.resolve()))
        allowed = sqlite3.SQLITE_OK, sqlite3.SQLITE_DENY
        database.set_authorizer(lambda action, *_: allowed[action not in READING])
        try:
            cursor = database.execute(sql)
            rows = cursor.fetchmany(ROWS + 1)
            names = [name for name, *_ in cursor.description]
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise UserError(
                f"this is not a SELECT over the tables runs, results, metrics and config: {error}"
            ) from error
    if len(rows) > ROWS:
        raise UserError(f"more than {ROWS:,} rows answer this: add a condition, or a limit")
    return names, rows


def _insert(database: sqlite3.Connection, name: str, run: Record) -> None:
    starts = run.manifest.get("starts")
    last = starts[-1] if isinstance(starts, list) and starts and isinstance(starts[-1], dict) else {}
    facts = (
        name,
        run.state,
        run.config.get("seed", 0),
        run.step,
        number(run.timing.get("seconds")),
        *(_text(last.get(fact)) for fact in ("time", "packages", "devices", "commit")),
    )
    database.execute(f"insert into runs values ({', '.join('?' * len(facts))})", facts)
    database.executemany("insert into results values (?, ?, ?)", [(name, *item) for item in run.metrics.items()])
    database.executemany("insert into metrics values (?, ?, ?, ?)", ((name, *row) for row in _logged(run)))
    fields = ((name, path, str(value)) for path, _, value in diff({}, run.config))
    database.executemany("insert into config values (?, ?, ?)", fields)


def _logged(run: Record) -> Iterator[tuple[int, str, float | None]]:
    for row in run.rows:
        yield from ((row["step"], metric, number(value)) for metric, value in row.items() if metric != "step")


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
