"""Keeps the page of a run up to date while it is trained."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from research.errors import UserError
from research.files import write_text
from research.reports.page import run_page
from research.reports.records import State, read_run, section
from research.reports.samples import record
from research.runs.experiment import Experiment, open_run
from research.training.limits import peak_memory

REFRESH_SECONDS = 30


@contextlib.contextmanager
def live_report(folder: Path) -> Iterator[None]:
    """Keeps `report.html` of a run up to date while the block trains it, and tells how it ended.

    A thread rewrites the page when there are new metrics, at most every 30 seconds and for at most 1 % of the time.
    What goes wrong with it is one line of warning and never the run's trouble.
    """
    if jax.process_index() > 0:
        yield
        return
    ended, page = threading.Event(), _Page(folder)
    thread = threading.Thread(target=page.follow, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        page.write("finished" if (folder / "results.json").exists() else "stopped")  # the lock is still held


def record_samples(experiment: Experiment) -> None:
    """Records what the trained model does with a few examples; a failure is one line of warning."""
    try:
        record(experiment, peak_memory())
    except Exception as error:
        _warn(f"{experiment.folder / 'report.html'} has no samples: {_why(error)}")


class _Page:
    """The page of a run that is being trained; it complains once at most."""

    def __init__(self, folder: Path):
        self._folder, self._complained = folder, False

    def follow(self, ended: threading.Event) -> None:
        """Writes the page whenever there are new metrics, until `ended` or until it cannot be written."""
        metrics, written, pause = self._folder / "metrics.jsonl", 0.0, REFRESH_SECONDS
        while not ended.wait(pause):
            changed = metrics.stat().st_mtime if metrics.exists() else 0.0
            if changed > written:
                began = time.perf_counter()
                if not self.write("running"):
                    return
                written, pause = changed, max(REFRESH_SECONDS, 100 * (time.perf_counter() - began))

    def write(self, state: State) -> bool:
        """Whether that went well; where there are no metrics yet there is nothing to do."""
        try:
            if (self._folder / "metrics.jsonl").exists():
                write_text(self._folder / "report.html", run_page([read_run(self._folder, state)]))
        except Exception as error:  # a page about the run is not worth the run
            if not self._complained:
                _warn(f"{self._folder / 'report.html'} is not written: {_why(error)}")
            self._complained = True
            return False
        return True


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, UserError | OSError) else f"{type(error).__name__}: {error}"


def _warn(sentence: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody may be listening
        print(_printable(f"warning: {sentence}"), file=sys.stderr, flush=True)


def _printable(text: str) -> str:
    """A text that may be anybody's, without what a terminal takes for a command."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def record_again(folder: Path) -> None:
    """Records samples of a run with its checkpoint and the data that its config names, unless somebody trains it."""
    run = read_run(folder)
    if run.state == "running":
        return _warn(f"{folder} is being trained: its samples are recorded at its end")
    data = ", ".join(f"data.{name}={value!r}" for name, value in section(run.config, "data").items())
    print(_printable(f"reading the data of {folder}: {data}"), flush=True)
    try:
        record(open_run(folder), run.shown.get("memory", {}))
    except UserError as error:
        _warn(f"the page has no new samples: {error}")
