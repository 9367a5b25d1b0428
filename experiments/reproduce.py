"""Regenerates published results: `python -m experiments.reproduce NAME [--data=FOLDER]`.

    python -m experiments.reproduce --list
        shows all claims of research/ledger/claims.toml, their state, cost and command
    python -m experiments.reproduce scan-simple
        trains each seed (what is finished is not trained again), checks the mean against the claim and writes
        research/ledger/results/scan-simple.json
    python -m experiments.reproduce --check
        exits with 1 where a result contradicts itself, or where a table of README.md or docs/results.md is not that of
        the ledger; with --write it renews these tables

A run's folder, WORKDIR/NAME/seed_N, is one of experiments.train.
"""

import argparse
import sys
from pathlib import Path

from research.errors import UserError
from research.ledger.claims import find_claim, read_claims
from research.ledger.reproduction import check, reproduce, show
from research.reports.training import train
from research.runs.command import run_command


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    if arguments.list:
        show(read_claims())
    elif arguments.check:
        different = check(arguments.write)
        verb = "renewed" if arguments.write else "not that of the ledger: use experiments.reproduce --check --write"
        for page in different:
            print(f"{page}: {verb}")
        if different and not arguments.write:
            sys.exit(1)
    elif arguments.name is None:
        raise UserError("there is nothing to do: give a claim's name, --list or --check")
    else:
        claim = find_claim(arguments.name)
        if claim.data and arguments.data is None:
            raise UserError(f"{arguments.name} needs {claim.data}: give their folder as --data=FOLDER")
        reproduce(arguments.name, Path(arguments.workdir), arguments.data or "", train)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m experiments.reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", help="a claim of research/ledger/claims.toml")
    parser.add_argument("--workdir", default="runs/reproduced", help="the folder of the runs")
    parser.add_argument("--data", metavar="FOLDER", help="the folder of the data that the claim names")
    parser.add_argument("--list", action="store_true", help="show all claims")
    parser.add_argument("--check", action="store_true", help="check the results and the tables made of them")
    parser.add_argument("--write", action="store_true", help="with --check: renew the tables")
    run_command(main, parser)
