"""Writes what there is to see of a run into one HTML file: `python -m experiments.report RUN`.

Several runs share one page, those that differ in their seed as a mean with its deviation; a sweep's folder becomes the
page of the sweep. The file needs no network. Training writes RUN/report.html by itself, while it runs and at its end.
"""

import argparse
import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from experiments.command import run_command
from experiments.experiment import Experiment, open_run
from experiments.pages.page import run_page, sweep_page
from experiments.pages.records import read_run
from experiments.pages.samples import peak_memory, record
from research.errors import UserError
from research.files import write_text

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
    ended = threading.Event()
    thread = threading.Thread(target=_refresh, args=(folder, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        state = "finished" if (folder / "results.json").exists() else "stopped"  # the lock is still held
        _write(folder, state)


def record_samples(experiment: Experiment) -> None:
    """Records what the trained model does with a few examples; a failure is one line of warning."""
    try:
        record(experiment, peak_memory())
    except Exception as error:
        print(f"warning: {experiment.folder / 'report.html'} has no samples: {error}", file=sys.stderr)


def _refresh(folder: Path, ended: threading.Event) -> None:
    metrics, written, pause = folder / "metrics.jsonl", 0.0, REFRESH_SECONDS
    while not ended.wait(pause):
        if metrics.exists() and (changed := metrics.stat().st_mtime) > written:
            began = time.perf_counter()
            if not _write(folder, "running"):
                return
            written, pause = changed, max(REFRESH_SECONDS, 100 * (time.perf_counter() - began))


def _write(folder: Path, state: str) -> bool:
    try:
        if (folder / "metrics.jsonl").exists():
            write_text(folder / "report.html", run_page([read_run(folder, state)]))
    except Exception as error:  # a page about the run is not worth the run
        print(f"warning: {folder / 'report.html'} is not written: {error}", file=sys.stderr)
        return False
    return True


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    runs = [Path(run) for run in arguments.runs]
    for run in runs:
        if not run.is_dir():
            raise UserError(f"there is no folder {run}: give the folder of a run or a sweep")
        if len(runs) > 1 and (run / "sweep.csv").exists():
            raise UserError(f"{run} is a sweep, whose page shows it alone: give it as the only folder")
    if len(runs) > 1 and not arguments.output:
        raise UserError("several runs have no folder of their own for a page: add --output=FILE.html")
    output = Path(arguments.output or runs[0] / "report.html")
    if (runs[0] / "sweep.csv").exists():
        text = sweep_page(runs[0])
    else:
        for run in runs:
            _record(run)
        text = run_page([read_run(run) for run in runs])
    write_text(output, text)
    print(f"the report is {output}")


def _record(folder: Path) -> None:
    """Records samples of a run that has none, if its checkpoint and data are here and nobody is training it."""
    if (folder / "report.json").exists() or read_run(folder).state == "running":
        return
    try:
        record(open_run(folder), {})
    except UserError as error:
        print(f"warning: the page has no samples: {error}", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs, or of one sweep")
    parser.add_argument("--output", help="the file to write (RUN/report.html for a single one)")
    run_command(main, parser)
