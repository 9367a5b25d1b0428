"""Measures what a trained image model's features are worth: `python -m experiments.probe --workdir=FOLDER`.

The model stays as it is, without its head; on its pooled features of the training images are fitted a linear classifier
(logistic regression), nearest neighbours by cosine similarity, and a linear classifier by least squares on a few images
of each class. `--random` measures the same model untrained, which says how much of it is the training's merit. A model
of images and captions, or any other, is measured on other data with --config.data.name=image_folder and the like.
"""

import argparse
from pathlib import Path

from research.errors import UserError
from research.files import write_json
from research.runs.answers import check_other_data
from research.runs.command import add_plugin, run_command
from research.runs.experiment import open_run
from research.runs.probe import probe


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    if not 0 < arguments.labels <= 1:
        raise UserError(f"--labels {arguments.labels} is not a fraction: use more than 0 and at most 1")
    check_other_data(arguments.overrides)
    experiment = open_run(Path(arguments.workdir), data=arguments.overrides)
    if "image" not in experiment.sample_batch:
        raise UserError(f"{arguments.workdir} holds no model of images: give one that was trained on images")
    if "test" not in experiment.source.splits:
        raise UserError("the data have no test split to measure on: set data.test_path")
    results = probe(experiment, random=arguments.random, labels=arguments.labels, shots=arguments.shots)
    name = "probe_random" if arguments.random else "probe"
    settings = {"labels": arguments.labels}
    if arguments.overrides:
        settings["data"] = {split: experiment.source.fingerprint(split) for split in ("train", "test")}
    write_json(experiment.folder / f"{name}.json", settings | results)
    for name, accuracy in results.items():
        print(f"{name} {accuracy:.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m experiments.probe", description=__doc__)
    parser.add_argument("--workdir", required=True, help="the run's folder")
    parser.add_argument("--config.data.PATH", metavar="VALUE", help="other data, such as --config.data.path=my_photos")
    parser.add_argument("--random", action="store_true", help="measure the untrained model")
    parser.add_argument("--labels", type=float, default=1.0, help="share of the training labels to use (default: all)")
    parser.add_argument("--shots", type=int, default=5, help="images of each class for the few-shot figure")
    add_plugin(parser)
    run_command(main, parser)
