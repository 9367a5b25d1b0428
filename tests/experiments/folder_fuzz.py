"""Spoils every file of a run's folder in every way, and lets the commands work with what is left.

`python -m tests.experiments.folder_fuzz --only=digits` tries all of it on a run (half an hour each) and prints what
went wrong; the suite tries a part. A command may end in one sentence or give what the undisturbed run gives, and
nothing else.
"""

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from research.errors import UserError
from research.reports.training import train
from research.runs.evaluation import evaluate
from research.runs.experiment import open_run
from research.runs.predictor import Predictor
from research.training.checkpoints import Checkpoints

QUESTIONS = {"phrasebook": "5 days", "shakespeare": "To be"}


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes() or b" ")
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def _replaced(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


def _numbers_as_text(path: Path) -> None:
    path.write_bytes(re.sub(rb"\d+", b'"many"', path.read_bytes()))


SPOILS: dict[str, Callable[[Path], None]] = {
    "half": _half,
    "flipped": _flipped,
    "empty": _replaced(b""),
    "list": _replaced(b"[]"),
    "null": _replaced(b"null"),
    "object": _replaced(b"{}"),
    "NaN": _replaced(b'{"step": NaN, "training": 5}'),
    "deep": _replaced(b"[" * 100_000),
    "binary": _replaced(bytes(range(256))),
    "text for numbers": _numbers_as_text,
    "folder": _folder,
    "pipe": _pipe,
    "link": _link,
    "gone": Path.unlink,
}


def commands(spec: str, overrides: dict[str, str]) -> dict[str, Callable[[Path], Any]]:
    """What is tried with a folder, each with what can be compared: results, and answers."""
    question = next((text for name, text in QUESTIONS.items() if name in spec), None)

    def measured(folder: Path) -> dict[str, float]:
        experiment = open_run(folder)
        with Checkpoints(experiment.folder / "checkpoints", experiment.checkpoint, write=False) as checkpoints:
            return evaluate(experiment, checkpoints, ["test" if "test" in experiment.source.splits else "validation"])

    found: dict[str, Callable[[Path], Any]] = {
        "train": lambda folder: train(spec, folder, overrides),
        "evaluate": measured,
    }
    return found | ({"predict": lambda folder: Predictor.open(folder).answer([question])} if question else {})


def files(folder: Path) -> list[str]:
    """What a run's folder holds beside its checkpoints, whose files have tests of their own."""
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix not in (".png", ".html"))


def outcome(command: Callable[[Path], Any], folder: Path) -> str:
    """What a command gives as JSON, or its sentence; anything else is raised."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return json.dumps(command(folder), sort_keys=True)
    except UserError as error:
        sentence = str(error)
        if "\n" in sentence or len(sentence) > 600:
            raise AssertionError(f"not one sentence: {sentence!r}") from error
        return "error"


def faults(
    trained: Path, spec: str, overrides: dict[str, str], names: Callable[[str, str, str], bool]
) -> Iterator[tuple[str, str, str, str]]:
    """(file, spoil, command, what went wrong) of all combinations that `names` wants."""
    with tempfile.TemporaryDirectory() as scratch:
        whole = shutil.copytree(trained, Path(scratch) / "whole")
        (whole / "results.json").unlink()  # or training would read nothing else
        undisturbed = {}
        for command, run in commands(spec, overrides).items():
            copy = shutil.copytree(whole, Path(scratch) / f"undisturbed_{command}")
            undisturbed[command] = outcome(run, copy)
        for file in [*files(trained)]:
            for spoil, change in SPOILS.items():
                for command, run in commands(spec, overrides).items():
                    if not names(file, spoil, command):
                        continue
                    copy = shutil.copytree(trained if file == "results.json" else whole, Path(scratch) / "copy")
                    change(copy / file)
                    try:
                        found = outcome(run, copy)
                        if found not in ("error", undisturbed[command]):
                            yield file, spoil, command, f"another result: {found[:200]}"
                    except BaseException as error:
                        yield file, spoil, command, f"{type(error).__name__}: {str(error)[:200]}"
                    shutil.rmtree(copy)


def main(only: str) -> None:
    """Everything, on those of three runs whose config is named so."""
    total = 0
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text("To be, or not to be, that is the question:\n" * 40)
        runs = {
            "configs/vision/digits.py:tiny": {},
            "configs/translation/phrasebook.py:tiny": {},
            "configs/language/shakespeare.py:tiny": {"data.path": str(text)},
        }
        for spec, overrides in ((spec, overrides) for spec, overrides in runs.items() if only in spec):
            trained = Path(folder) / "trained" / Path(spec).stem
            with contextlib.redirect_stdout(io.StringIO()):
                train(spec, trained, overrides)
            for fault in faults(trained, spec, overrides, lambda *_: True):
                total += 1
                print(spec, *fault, sep=" | ", flush=True)
    print(f"{total} faults")
    sys.exit(total > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a part of the configs' names")
    main(parser.parse_args().only)
