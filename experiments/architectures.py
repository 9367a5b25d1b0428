"""Parameters and multiply-adds of every model beside the published ones: `python -m experiments.architectures`.

Counted from abstract shapes, without data or weights. Then table 1 of "Attention Is All You Need": how the operations
of a layer grow with the length n and the width d, read off the traced programs. Exit code 1 where anything is off.
"""

import argparse
import sys

from research.files import write_json
from research.ledger.architectures import STORED, architecture_table, compute
from research.runs.command import run_command


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    counts = compute()
    print(architecture_table(counts))
    if arguments.write:
        write_json(STORED, counts)
    if not all(row["ok"] for row in counts["models"] + counts["layers"]):
        print("a row is OFF: the model is not the published one", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m experiments.architectures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help="also write research/ledger/results/architectures.json")
    run_command(main, parser)
