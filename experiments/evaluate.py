"""Evaluates a finished or half-finished run: `python -m experiments.evaluate --workdir=FOLDER`.

With other options, another checkpoint or other data, such as a second test set (`--config.data.test_source=...`), the
results are kept in the run's folder under the name that `--name` gives them. `--heads` and `--alignments` look into the
attention of the last of the splits instead.
"""

import argparse
from pathlib import Path

from research.errors import UserError
from research.runs.alignment import align
from research.runs.answers import add_answers, check_other_data, place_of, record
from research.runs.command import add_plugin, number, run_command
from research.runs.evaluation import evaluate
from research.runs.experiment import open_run
from research.runs.folder import check_data, data_of
from research.runs.heads import ablate_heads, table
from research.training.checkpoints import Checkpoints


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    check_other_data(arguments.overrides)
    _refuse_several(arguments)
    folder, overrides = Path(arguments.workdir), arguments.overrides
    experiment = open_run(folder, arguments.checkpoint, arguments.options, overrides)
    splits = arguments.splits or [split for split in experiment.source.splits if split != "train"]
    for split in splits:
        if split not in experiment.source.splits:
            raise UserError(f"split {split!r} is unknown: use {', '.join(experiment.source.splits)}")
        experiment.examples(split)  # refuses data of other classes, of which more can be said than that they changed
    data = data_of(experiment.source, splits)
    if not overrides:
        check_data(folder, data, learnt=())
    fingerprints = {split: data[split]["fingerprint"] for split in splits}
    changes = {"checkpoint": arguments.checkpoint, "options": arguments.options, "data": fingerprints}
    place = None if arguments.name is None else place_of(experiment, arguments.name, changes)
    with Checkpoints(experiment.folder / "checkpoints", experiment.checkpoint, write=False) as checkpoints:
        if arguments.heads is not None:
            print(table(ablate_heads(experiment, checkpoints, splits[-1], arguments.heads)), end="")
            return
        if arguments.alignments is not None:
            for layer, scores in align(experiment, checkpoints, splits[-1], Path(arguments.alignments)).items():
                print(layer, *(f"{name} {value:.4f}" for name, value in scores.items()))
            return
        results = evaluate(experiment, checkpoints, splits, samples=arguments.samples)
    for name, value in sorted(results.items()):
        print(f"{name} {value:.4f}")
    if place is not None:
        record(experiment, place, changes, results)
        print(f"kept in {place}")


def _refuse_several(arguments: argparse.Namespace) -> None:
    """Raises UserError where results would be asked for and then not be measured."""
    given = [f"--{name}" for name in ("heads", "alignments", "name") if getattr(arguments, name) is not None]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} are different measurements: give one of them in a command")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m experiments.evaluate", description=__doc__)
    parser.add_argument("--workdir", required=True, help="the run's folder")
    parser.add_argument("--splits", nargs="+", help="splits to measure (all but train when not given)")
    parser.add_argument("--samples", type=number, default=5, help="answers to print")
    parser.add_argument("--name", help="keep the results in the run's folder, as evaluations/NAME.json")
    parser.add_argument(
        "--config.data.PATH", metavar="VALUE", help="other data, such as --config.data.test_source=newstest2015.en"
    )
    parser.add_argument(
        "--heads", metavar="METRIC", help="measure METRIC without each attention head instead: heads.md in the folder"
    )
    parser.add_argument(
        "--alignments",
        metavar="FILE",
        help="compare a translation's attention with links of words, a line each: 0-0 1-2",
    )
    add_answers(parser)
    add_plugin(parser)
    run_command(main, parser)
