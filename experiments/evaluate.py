"""Evaluates a finished or half-finished run: `python -m experiments.evaluate --workdir=FOLDER`."""

import argparse
from pathlib import Path

from research.errors import UserError
from research.runs.command import add_plugin, run_command
from research.runs.evaluation import evaluate
from research.runs.experiment import open_run
from research.runs.folder import check_data, data_of
from research.training.checkpoints import Checkpoints


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    experiment = open_run(Path(arguments.workdir))
    splits = arguments.splits or [split for split in experiment.source.splits if split != "train"]
    for split in splits:
        if split not in experiment.source.splits:
            raise UserError(f"split {split!r} is unknown: use {', '.join(experiment.source.splits)}")
        experiment.examples(split)  # refuses data of other classes, of which more can be said than that they changed
    check_data(experiment.folder, data_of(experiment.source, splits), learnt=())
    with Checkpoints(experiment.folder / "checkpoints", experiment.checkpoint, write=False) as checkpoints:
        results = evaluate(experiment, checkpoints, splits, samples=arguments.samples)
    for name, value in sorted(results.items()):
        print(f"{name} {value:.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m experiments.evaluate", description=__doc__)
    parser.add_argument("--workdir", required=True, help="the run's folder")
    parser.add_argument("--splits", nargs="+", help="splits to measure (all but train when not given)")
    parser.add_argument("--samples", type=int, default=5, help="answers to print")
    add_plugin(parser)
    run_command(main, parser)
