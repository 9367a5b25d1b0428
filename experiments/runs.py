"""Runs that exist: `python -m experiments.runs compare A B ...` and `python -m experiments.runs query "SELECT ..."`.

`compare` shows in what the configs differ and what was measured. Each of A, B, ... is a run, a sweep (its best point is
meant) or a folder of runs that differ in their seed; of such groups it says how sure their difference is.

`query` answers SQL over all runs below a folder: the tables are runs(run, state, seed, step, seconds, started,
packages, devices, git_commit), results(run, metric, value), metrics(run, step, metric, value) and config(run, path,
value).
"""

import argparse
import csv
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from research.reports.comparison import comparison
from research.reports.query import query
from research.runs.command import run_command

WIDTH = 200
"""Letters of a line where the output is no terminal."""


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    if arguments.action == "compare":
        console.print(comparison([Path(folder) for folder in arguments.folders], arguments.metric), highlight=False)
        return
    names, rows = query(Path(arguments.folder), arguments.sql)
    if arguments.format == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerows([names, *rows])
    elif arguments.format == "jsonl":
        for row in rows:
            print(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False))
    else:
        table = Table(*names, box=None)
        for row in rows:
            table.add_row(*("" if value is None else str(value) for value in row))
        console.print(table, highlight=False, markup=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.runs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    compared = actions.add_parser("compare", help="settings and results side by side")
    compared.add_argument("folders", nargs="+", metavar="FOLDER", help="a run, a sweep, or runs of several seeds")
    compared.add_argument("--metric", help="one metric (when not given: all, and sentences about the objective)")
    asked = actions.add_parser("query", help="SQL over all runs below a folder")
    asked.add_argument("sql", help="one SELECT")
    asked.add_argument("--folder", default="runs", help="where the runs are (default: runs)")
    asked.add_argument("--format", choices=("table", "csv", "jsonl"), default="table")
    return parser


if __name__ == "__main__":
    run_command(main, _parser())
