"""Where metrics go: `metrics.jsonl`, TensorBoard and the console."""

import contextlib
import itertools
import json
import math
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from research.files import own_folder, write_text
from research.training.trackers import Tracked

LONGEST_LINE = 2**20
"""Bytes of a line of `metrics.jsonl` that are read; real ones have a few hundred."""


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line, with `step` and the metrics logged at it.

    Opening it at a step drops the lines beyond: the resumed run writes them again, bit for bit the same. What was lost
    of the lines before, one of which was due after each `every` steps from the `first` one on, is one line of warning
    on stderr; a damaged file is kept beside the new one as `metrics.jsonl.damaged`.
    """

    def __init__(self, path: Path, step: int, *, first: int = 0, every: int = 1):
        rows, trouble = read_lines(path)
        kept = [row for row in rows if row["step"] <= step]
        last = max((int(row["step"]) for row in kept), default=first)
        told = [f"{path.name}: {trouble}, what it was is kept as {_keep_damaged(path)}"] if trouble else []
        if last < (due := step // every * every):
            told.append(f"{path.name} has no lines from step {last + 1} to {due}: they are lost")
        if told:
            with contextlib.suppress(OSError):  # nobody may be listening
                print(f"warning: {path.parent}: {'; '.join(told)}", file=sys.stderr, flush=True)
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one line; non-finite numbers are written as strings, since JSON has none."""
        row = {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, **row}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.jsonl`: objects with a whole number `step` and numbers, or "nan", "inf" or "-inf".

    Whatever else is there is left out; [] where there is no such file.
    """
    return read_lines(path)[0]


def read_lines(path: Path) -> tuple[list[dict[str, float]], str]:
    """The rows as `read_metrics` has them, and what of the file cannot be read, "" if nothing.

    A last line that a kill cut short counts as nothing: it was never whole. Only a regular file is opened.
    """
    rows, unreadable = [], 0
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return [], "it is not a file"
        with path.open("rb") as file:
            while line := file.readline(LONGEST_LINE):
                if (row := _row(line)) is not None:
                    rows.append(row)
                elif line.strip() and (line.endswith(b"\n") or not b'{"step": '.startswith(line[:9])):
                    unreadable += 1
    except FileNotFoundError:
        return [], ""
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        return rows, f"it cannot be read ({error})"
    return rows, f"{unreadable} line{'s' * (unreadable > 1)} cannot be read" if unreadable else ""


def _row(line: bytes) -> dict[str, float] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not all(map(_logged, row.values())):
        return None
    step = row.get("step")
    return row if isinstance(step, int) and 0 <= step < 2**53 else None


def _logged(value: Any) -> bool:
    """Whether `MetricsFile` can have written a value."""
    if isinstance(value, str):
        return value in ("nan", "inf", "-inf")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 2**1000


def _keep_damaged(path: Path) -> str:
    """Moves a file away to a free name, which is returned."""
    names = (f"{path.name}.damaged{number}" for number in itertools.chain([""], itertools.count(2)))
    name = next(name for name in names if not os.path.lexists(path.with_name(name)))
    path.rename(path.with_name(name))
    return name


def number(value: Any) -> float | None:
    """A logged value: numbers, and those that JSON lacks as text ("nan", "inf"); None for anything else."""
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


class Loggers:
    """All places at once. With `folder` None (processes other than the first) nothing is written.

    first: the step at which the run began. every: steps from one line to the next. bar: whether the console is one of
    the places. tracked: a record elsewhere, which outlives these.
    """

    def __init__(
        self,
        folder: Path | None,
        step: int,
        total_steps: int,
        *,
        first: int = 0,
        every: int = 1,
        bar: bool = True,
        tracked: Tracked | None = None,
    ):
        self._file = MetricsFile(folder / "metrics.jsonl", step, first=first, every=every) if folder else None
        self._board = SummaryWriter(str(own_folder(folder / "tensorboard")), purge_step=step + 1) if folder else None
        self._bar = _ProgressBar(step, total_steps) if folder and bar else None
        self._tracked = tracked

    def __enter__(self) -> "Loggers":
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for logger in (self._bar, self._file, self._board):
            if logger:
                # On a full disk closing fails as well: what stopped the run is the better message.
                with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
                    logger.close()

    def advance(self, step: int) -> None:
        """Moves the progress bar."""
        if self._bar:
            self._bar.advance(step)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs the metrics of a step everywhere."""
        if self._file and self._board:
            self._file.write(step, metrics)
            for name, value in metrics.items():
                self._board.add_scalar(name, value, step)
        if self._tracked:
            self._tracked.write(step, metrics)
        if self._bar:
            self._bar.say(step, metrics)


class _ProgressBar:
    """A live bar with the latest loss and the time left on a terminal; plain lines elsewhere."""

    def __init__(self, step: int, total_steps: int):
        console = Console(file=sys.stdout)
        self._live = console.is_terminal
        self._console = console
        self._total = total_steps
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        self._progress = Progress(*columns, console=console, disable=not self._live)
        self._task = self._progress.add_task("training", total=total_steps, completed=step, loss="")
        self._progress.start()

    def advance(self, step: int) -> None:
        if self._live:
            self._progress.update(self._task, completed=step)

    def say(self, step: int, metrics: Mapping[str, float]) -> None:
        loss = metrics.get("train/loss")
        if loss is not None:
            self._progress.update(self._task, loss=f"loss {loss:.4f}")
        shown = [f"{name} {value:.4g}" for name, value in metrics.items() if not name.startswith("time/")]
        if not self._live or any(not name.startswith(("train/", "time/")) for name in metrics):
            self._console.print(f"step {step}/{self._total}  " + "  ".join(shown), highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()
