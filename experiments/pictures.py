"""Draws a run: `python -m experiments.pictures --workdir=FOLDER ["A sentence to translate." or an image file]`.

Into the run's folder: `learning_curves.png` and `schedule.png`. For models of text `masks.png`, `positions.png` and,
while the model answers the text, `attention/<layer>.png` for every attention layer and head, with the numbers in
`attention.json`. For answers about places in an image `answer.png`, drawn over it. For image classifiers
with a feature map (ResNet, MobileNet, EfficientFormer, Swin) `relevance.png`, the places that speak for the predicted
class; for a ViT `attention/<layer>.png` over the image for each head, and `attention/rollout.png` through all layers.
Captioners and two towers have both, and a captioner's cross-attention over the image for each word of its answer.

With --rows=NUMBERS, of a text of any length only what these tokens attend to: the keys with the most weight are
printed, and `attention/<layer>_rows.png` shows all; --layer and --head name one of each.
"""

import argparse
from pathlib import Path

from research.errors import UserError
from research.reports.pictures import Asked, draw, draw_rows
from research.runs.answers import add_answers
from research.runs.command import add_plugin, run_command
from research.runs.experiment import open_run


def numbers(text: str) -> list[int]:
    """Numbers that stand between commas."""
    return [int(part) for part in text.split(",")]


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    experiment = open_run(Path(arguments.workdir), arguments.checkpoint, arguments.options)
    if arguments.rows is not None:
        if arguments.item is None:
            raise UserError("--rows are tokens of a text: give the text as well")
        print(draw_rows(experiment, arguments.item, Asked(arguments.rows, arguments.layer, arguments.head)))
        return
    if arguments.layer is not None or arguments.head is not None:
        raise UserError("--layer and --head are for the attention of single tokens: give their numbers as --rows")
    paths = experiment.source.paths()
    draw(experiment, arguments.item, data=arguments.data)
    print(f"pictures are in {arguments.workdir}")
    if paths and not arguments.data:
        print(f"its data were not read: with --data, what needs {', '.join(paths)} is drawn too")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m experiments.pictures", description=__doc__)
    parser.add_argument("--workdir", required=True, help="the run's folder")
    parser.add_argument("item", nargs="?", help="the sentence to translate, or the image file to look at")
    parser.add_argument("--data", action="store_true", help="read the files that the run's config names as its data")
    parser.add_argument("--rows", type=numbers, metavar="N,N,...", help="numbers of tokens, the first of which is 0")
    parser.add_argument(
        "--layer", metavar="PATH", help="with --rows: one layer, such as decoder/layer_0/self_attention"
    )
    parser.add_argument("--head", type=int, metavar="N", help="with --rows: one head, the first of which is 0")
    add_answers(parser)
    add_plugin(parser)
    run_command(main, parser)
