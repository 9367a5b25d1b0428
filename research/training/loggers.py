"""Where metrics go: `metrics.jsonl`, TensorBoard and the console."""

import contextlib
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from research.files import write_text


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line, with `step` and the metrics logged at it.

    Opening it at a step drops the lines beyond: the resumed run writes them again, bit for bit the same.
    """

    def __init__(self, path: Path, step: int):
        kept = [row for row in read_metrics(path) if row["step"] <= step]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one line; non-finite numbers are written as strings, since JSON has none."""
        row = {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, **row}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.jsonl`, without a last line that a kill cut short; [] when there is no file."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


class Loggers:
    """All places at once. With `folder` None (processes other than the first) nothing is written.

    bar: whether the console is one of the places.
    """

    def __init__(self, folder: Path | None, step: int, total_steps: int, *, bar: bool = True):
        self._file = MetricsFile(folder / "metrics.jsonl", step) if folder else None
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1) if folder else None
        self._bar = _ProgressBar(step, total_steps) if folder and bar else None

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
