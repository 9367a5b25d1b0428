"""Compares vision models on this machine: `python -m experiments.benchmark --config=FILE.py --workdir=FOLDER`.

Prints parameters, multiply-adds, latency (batch normalisation folded, models in turns), images a second, and memory.
Then how time and memory grow with the number of tokens: of attention alone, of a block of a ViT, and of a residual
block of two 3x3 convolutions of the same width. The folder keeps them as `comparison.md` and `results.json`, with
pictures of both, `models.png` and `tokens.png`.
"""

import argparse
from pathlib import Path

from research.ledger.latency import benchmark
from research.runs.command import add_config, run_command


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    benchmark(arguments.config, Path(arguments.workdir), arguments.overrides)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config(parser)
    parser.add_argument("--workdir", required=True, help="the folder of the tables and pictures")
    run_command(main, parser)
