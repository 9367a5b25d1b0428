"""Shows the data of an experiment: `python -m experiments.inspect --config=FILE.py`.

First a split's raw examples, then a training batch as the model sees it: shapes, padding, tokens beside their text.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from research.config import load
from research.errors import UserError
from research.runs.audit import audit
from research.runs.command import add_config, number, run_command
from research.runs.experiment import Experiment, build_experiment
from research.tasks.task import Example


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    config = load(arguments.config, arguments.overrides)
    with tempfile.TemporaryDirectory() as folder:
        experiment = build_experiment(config, Path(folder))
        if arguments.audit:
            if arguments.split != "train":
                raise UserError("--audit reads all splits: leave --split out")
            sys.exit(_audit(experiment, arguments.format))
        examples = experiment.examples(arguments.split)
        if arguments.format == "jsonl":
            for index in range(len(examples)):
                print(json.dumps(examples[index], ensure_ascii=False, default=_plain))
            return
        print(f"{arguments.split}: {len(examples)} examples")
        for index in range(min(arguments.count, len(examples))):
            print(f"  {index}: {_short(examples[index])}")
        batches = experiment.run.batches
        if arguments.step >= len(batches):
            raise UserError(f"--step={arguments.step} is beyond the run's {len(batches):,} steps: use a smaller one")
        batch = batches[arguments.step]
        print(f"\nthe training batch of step {arguments.step}:")
        for name, array in batch.items():
            print(f"  {name}: {array.dtype} {list(array.shape)}")
        if experiment.task.pad is not None:
            print(f"  padding: {_padding(batch, experiment.task.pad):.1%} of the tokens")
        print()
        for row in range(min(arguments.count, len(batch["weight"]))):
            print(experiment.task.show(batch, row))


def _audit(experiment: Experiment, form: str) -> int:
    """Prints what is odd about the data; 1 where anything is."""
    found = audit(experiment)
    if form == "jsonl":
        for finding in found.findings:
            print(json.dumps(dataclasses.asdict(finding), ensure_ascii=False))
        return int(bool(found.findings))
    names = experiment.task.label_names(experiment.source)
    for split, count in found.counts.items():
        labels = found.labels[split]
        shown = ", ".join(
            f"{names[label] if isinstance(label, int) and label < len(names) else label}: {labels[label]:,}"
            for label in sorted(labels)
        )
        print(f"{split}: {count:,} examples" + (f" ({shown})" if shown else ""))
    print(*(found.findings or ["nothing odd was found"]), sep="\n")
    return int(bool(found.findings))


def _short(example: Example) -> str:
    values = {
        name: f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else value
        for name, value in example.items()
    }
    text = repr(values)
    return text if len(text) <= 300 else f"{text[:300]}... ({len(text):,} characters)"


def _padding(batch: dict[str, np.ndarray], pad: int) -> float:
    arrays = [array for name, array in batch.items() if name != "bytes"]  # sizes of tokens, no tokens
    tokens = [array for array in arrays if array.dtype == np.int32 and array.ndim == 2]
    return sum(int((array == pad).sum()) for array in tokens) / sum(array.size for array in tokens)


def _plain(value: Any) -> Any:
    return value.tolist()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m experiments.inspect", description=__doc__)
    add_config(parser)
    parser.add_argument("--split", default="train", help="the split whose raw examples are shown")
    parser.add_argument("--count", type=number, default=3, help="examples and batch rows to show")
    parser.add_argument("--step", type=number, default=0, help="the step whose batch is shown")
    parser.add_argument("--format", choices=("text", "jsonl"), default="text", help="jsonl: all raw examples")
    parser.add_argument(
        "--audit",
        action="store_true",
        help="read all examples and list what is odd: what is empty, repeated, in two splits, unknown to the "
        "vocabulary, too long, cannot be decoded, and classes without examples; exit code 1 where anything is",
    )
    run_command(main, parser)
