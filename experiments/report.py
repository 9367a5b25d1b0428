"""Writes what there is to see of a run into one HTML file: `python -m experiments.report RUN`.

Several runs share one page, those that differ in their seed as a mean with its deviation; a sweep's folder becomes the
page of the sweep. The file needs no network. Training writes RUN/report.html by itself, while it runs and at its end.
The page shows what the runs' folders hold and reads nothing else; --samples runs the model on the run's data, wherever
the run's config says they are.
"""

import argparse
from pathlib import Path

from research.errors import UserError
from research.files import write_text
from research.reports.live import record_again
from research.reports.page import run_page, sweep_page
from research.reports.records import read_run
from research.reports.stored import exists
from research.runs.command import add_plugin, run_command


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    runs = [Path(run) for run in arguments.runs]
    sweeps = [run for run in runs if exists(run / "sweep.csv", run)]
    for run in runs:
        if not run.is_dir():
            raise UserError(f"there is no folder {run}: give the folder of a run or a sweep")
        if len(runs) > 1 and run in sweeps:
            raise UserError(f"{run} is a sweep, whose page shows it alone: give it as the only folder")
    if len(runs) > 1 and not arguments.output:
        raise UserError("several runs have no folder of their own for a page: add --output=FILE.html")
    if sweeps and arguments.samples:
        raise UserError(f"{runs[0]} is a sweep, which has no samples: leave --samples out")
    output = Path(arguments.output or runs[0] / "report.html")
    if arguments.samples:
        for run in runs:
            record_again(run)
    text = sweep_page(runs[0]) if sweeps else run_page([read_run(run) for run in runs])
    write_text(output, text)
    print(f"the report is {output}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs, or of one sweep")
    parser.add_argument("--samples", action="store_true", help="record samples anew, with the data its config names")
    parser.add_argument("--output", help="the file to write (RUN/report.html for a single one)")
    add_plugin(parser)
    run_command(main, parser)
