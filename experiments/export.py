"""A run's model as a folder that runs without this project: `python -m experiments.export --workdir=RUN --output=NEW`.

`python NEW/run.py "some text"`, or with an image file, answers as the run does. It needs jax, flatbuffers, numpy, and
tokenizers or pillow. `python NEW/run.py --check` compares its answers with those of the run. docs/export.md has what
goes along and what cannot.
"""

import argparse
from pathlib import Path

from research.runs.answers import add_answers
from research.runs.command import add_plugin, run_command
from research.runs.experiment import open_run
from research.runs.standalone import export_standalone


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    experiment = open_run(Path(arguments.workdir), arguments.checkpoint, arguments.options)
    print(*export_standalone(experiment, Path(arguments.output), arguments.format), sep="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m experiments.export", description=__doc__)
    parser.add_argument("--workdir", required=True, help="the run's folder")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument("--format", choices=("jax", "onnx"), default="jax", help="of the programs (jax)")
    add_answers(parser)
    add_plugin(parser)
    run_command(main, parser)
