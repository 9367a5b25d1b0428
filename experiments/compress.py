"""Makes a trained run smaller and faster: `python -m experiments.compress --workdir=FOLDER --output=FOLDER`.

Candidates are trained from a part of the run's parameters, or are its parameters in fewer bits; each is a run of its
own in the folder of --output, which every command opens. `frontier.md`, `frontier.json` and `frontier.png` say what
each is worth and costs. The last line names the fastest candidate that meets the goals, or the smallest where no
latency is asked for; where none does, the exit code is 1. The same command resumes after any kill.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from research.compression.compress import compress
from research.compression.frontier import Goals, fraction
from research.compression.methods import DEFAULT
from research.errors import UserError
from research.reports.training import train_config
from research.runs.command import add_plugin, run_command
from research.values import literal


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    sides = {name: getattr(arguments, name) for name in ("latency", "size")}
    limits = {name: fraction(text, f"--{name}") for name, text in sides.items() if text is not None}
    if not 0 <= arguments.loss_at_most <= 100:
        raise UserError(f"--loss-at-most={arguments.loss_at_most} is not a number of points: use 0 to 100")
    duration = None if arguments.duration is None else literal(arguments.duration)
    if duration is not None and not isinstance(duration, Mapping):
        raise UserError(f"--duration={arguments.duration} is not a duration: write it as '{{\"steps\": 300}}'")
    best, sentence = compress(
        Path(arguments.workdir),
        Path(arguments.output),
        Goals(loss=arguments.loss_at_most, **limits),
        train_config,
        names=arguments.candidates or (),
        metric=arguments.metric,
        duration=duration,
    )
    if best is None:
        sys.exit(sentence)
    print(sentence)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m experiments.compress",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, help="the run's folder")
    parser.add_argument("--output", required=True, help="the folder of the candidates and of what was measured")
    parser.add_argument("--latency", metavar="0.5x", help="the goal: this part of the run's latency at most, one input")
    parser.add_argument("--size", metavar="0.25x", help="the goal: this part of the bytes of the run's weights at most")
    parser.add_argument(
        "--loss-at-most", type=float, default=1.0, metavar="POINTS", help="points of the metric lost at most (1.0)"
    )
    parser.add_argument(
        "--metric",
        metavar="SPLIT/NAME",
        help="what quality is, such as test/accuracy (checkpoint.best, or one of test)",
    )
    parser.add_argument(
        "--candidates",
        nargs="+",
        metavar="NAME",
        help="what is tried: layers0.5, heads0.5, neurons0.5, rank0.5 with the part that stays, then bf16 or int8, "
        f"joined by -; unless given those that fit the model of {' '.join(DEFAULT)}",
    )
    parser.add_argument(
        "--duration", metavar="DURATION", help="how long each is trained, as '{\"steps\": 300}' (a third of the run's)"
    )
    add_plugin(parser)
    run_command(main, parser)
