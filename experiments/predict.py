"""Answers questions with a trained run: `python -m experiments.predict --workdir=FOLDER "January 5, 2024"`.

Inputs are texts, image files, or lines on standard input when none is given. On a terminal a text that continues a
single one is shown as it is written. From Python:
`research.runs.predictor.Predictor.open(folder).answer(inputs)`.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from research.data.plain_text import decode_lines
from research.errors import UserError
from research.reports.pictures import save_pictures
from research.runs.answers import add_answers
from research.runs.command import add_plugin, run_command
from research.runs.predictor import Predictor


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    inputs = arguments.inputs or decode_lines(sys.stdin.buffer.read() if sys.stdin else b"", "standard input")
    if not inputs:
        raise UserError("there is nothing to answer: give inputs as arguments or as lines on standard input")
    predictor = Predictor.open(arguments.workdir, arguments.checkpoint)
    single = len(inputs) == 1 and arguments.format == "text" and arguments.pictures is None
    if single and predictor.streams and sys.stdout.isatty():
        _show(answer["text"] for answer in predictor.stream(inputs[0], **arguments.options))
        return
    examples = [predictor.task.example(item) for item in inputs]
    answers = predictor.answers(examples, **arguments.options)
    if arguments.pictures is not None:
        save_pictures(predictor.task, examples, answers, Path(arguments.pictures))
    for answer in answers:
        if arguments.format == "jsonl":
            print(json.dumps(answer, ensure_ascii=False))
        else:
            probability = f" ({answer['probability']:.3f})" if "probability" in answer else ""
            print(f"{answer.get('text', answer.get('label'))}{probability}")


def _show(texts: Iterable[str]) -> None:
    """Prints of each text what the one before did not have, and all of one that begins otherwise."""
    shown = ""
    for text in texts:
        if not text.startswith(shown):
            print()
            shown = ""
        print(text[len(shown) :], end="", flush=True)
        shown = text
    print()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m experiments.predict", description=__doc__)
    parser.add_argument("--workdir", required=True, help="the run's folder")
    parser.add_argument("--format", choices=("text", "jsonl"), default="text", help="how answers are printed")
    parser.add_argument("--pictures", metavar="FOLDER", help="draw each answer over its image: FOLDER/1.png, ...")
    parser.add_argument("inputs", nargs="*", help="texts or image files")
    add_answers(parser)
    add_plugin(parser)
    run_command(main, parser)
