"""Answers questions with a trained run: `python -m experiments.predict --workdir=FOLDER "January 5, 2024"`.

Inputs are texts, image files, or lines on standard input when none is given. From Python: `predict(folder, inputs)`.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.data.image_files import decode_image, read_image_file
from research.data.plain_text import decode_lines
from research.errors import UserError
from research.runs.command import run_command
from research.runs.experiment import Experiment, open_run
from research.tasks.next_token import NextToken
from research.tasks.packed_classification import PackedClassification
from research.tasks.translation import Translation
from research.training.checkpoints import Checkpoints


def predict(folder: Path | str, inputs: Sequence[Any]) -> list[dict[str, Any]]:
    """One answer for each input: texts for language tasks; paths or uint8 arrays [height, width, channels] for images.

    An answer is a dict with `text`, or `label` and `probability`.
    """
    experiment = open_run(Path(folder))
    examples = [example_of(experiment, item) for item in inputs]
    with Checkpoints(experiment.folder / "checkpoints", experiment.checkpoint, write=False) as checkpoints:
        variables, _ = experiment.variables(checkpoints)
    return experiment.evaluator.answers(variables, experiment.task.questions(examples))


def example_of(experiment: Experiment, item: Any) -> Mapping[str, Any]:
    """An input as the experiment's task takes it: a text, an image file or an array of pixels."""
    if isinstance(experiment.task, PackedClassification):  # takes images as they are
        is_file = isinstance(item, str | Path)
        return {"image": decode_image(read_image_file(item), str(item), None, 3) if is_file else item}
    if "image" in experiment.sample_batch:
        return {"image": _image(experiment, item)}
    return {"source" if isinstance(experiment.task, Translation | NextToken) else "text": _text(item)}


def _text(item: Any) -> str:
    if not isinstance(item, str):
        raise UserError(f"an input is {type(item).__name__} and this run answers texts: give str")
    try:
        item.encode()
    except UnicodeEncodeError as error:  # bytes of a command line that are not UTF-8 arrive as half characters
        raise UserError(f"the input {item!r} is not UTF-8 text: convert it to UTF-8") from error
    return item


def _image(experiment: Experiment, item: Any) -> np.ndarray:
    """Pixels as the data's source gives them; a file is resized to them, and made grey or coloured as they are."""
    *size, channels = experiment.sample_batch["image"].shape[1:]
    if getattr(experiment.task, "photo", None) is not None:  # it brings images of any size to its own
        side = experiment.config.data.get("size")
        size = side and (side, side)
    if isinstance(item, str | Path):
        return decode_image(read_image_file(item), str(item), size and tuple(size), channels)
    item = np.asarray(item)
    wanted = (*(size or item.shape[:2]), channels)
    if item.dtype != np.uint8 or item.shape != wanted:
        raise UserError(
            f"an image is {item.dtype} {list(item.shape)} and {experiment.folder} takes uint8 {list(wanted)}: convert "
            "it, or give its file"
        )
    return item


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    inputs = arguments.inputs or decode_lines(sys.stdin.buffer.read() if sys.stdin else b"", "standard input")
    if not inputs:
        raise UserError("there is nothing to answer: give inputs as arguments or as lines on standard input")
    for answer in predict(arguments.workdir, inputs):
        if arguments.format == "jsonl":
            print(json.dumps(answer, ensure_ascii=False))
        else:
            probability = f" ({answer['probability']:.3f})" if "probability" in answer else ""
            print(f"{answer.get('text', answer.get('label'))}{probability}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m experiments.predict", description=__doc__)
    parser.add_argument("--workdir", required=True, help="the run's folder")
    parser.add_argument("--format", choices=("text", "jsonl"), default="text", help="how answers are printed")
    parser.add_argument("inputs", nargs="*", help="texts or image files")
    run_command(main, parser)
