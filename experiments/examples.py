"""Writes a config's images as files: `python -m experiments.examples --config=FILE.py --output=my_folder`.

Of generated scenes these are PNG images with masks of their classes, boxes as COCO's `instances_SPLIT.json`, and
captions as its `captions_SPLIT.json`, for other programs; the sources `coco`, `image_masks` and `captions` read them.
"""

import argparse
import tempfile
from pathlib import Path

from research.config import load
from research.runs.command import add_config, run_command
from research.runs.example_files import write_examples
from research.runs.experiment import build_experiment


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    with tempfile.TemporaryDirectory() as folder:
        experiment = build_experiment(load(arguments.config, arguments.overrides), Path(folder))
    names = experiment.task.label_names(experiment.source)
    for split, count in write_examples(experiment.source, names, Path(arguments.output)).items():
        print(f"{split}: {count:,} examples")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m experiments.examples", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config(parser)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="a new folder for the files")
    run_command(main, parser)
