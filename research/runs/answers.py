"""What can be chosen when a trained run answers: the options of its task, its checkpoint, and other data."""

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.config import pick
from research.errors import UserError
from research.files import own_folder, read_json, write_json
from research.runs.experiment import Experiment
from research.runs.tables import TASKS
from research.values import described, literal


def add_answers(parser: argparse.ArgumentParser) -> None:
    """Adds `--set`, `--step`, `--best` and `--last`; the help of a command with a `--workdir` lists that run's options.

    They are `arguments.options`, a dict, and `arguments.checkpoint`, as `Checkpoints.evaluation_steps` takes it.
    """
    parser.add_argument(
        "--set",
        dest="options",
        action=_Options,
        default={},
        metavar="NAME=VALUE",
        help="another option of the answers than the run's own, such as beam_size=8; with --workdir, --help lists them",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--step", dest="checkpoint", type=int, metavar="N", help="answer with the checkpoint of step N")
    for name, words in (("best", "the best by the config's checkpoint.best"), ("last", "the latest")):
        text = f"answer with {words}"
        which.add_argument(f"--{name}", dest="checkpoint", action="store_const", const=name, help=text)
    if {"-h", "--help"} & {*sys.argv}:
        parser.epilog = _listed(sys.argv)


class _Options(argparse.Action):
    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None):
        name, separator, text = values.partition("=")
        if not separator:
            parser.error(f"--set {values}: write NAME=VALUE")
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), name: literal(text)})


def _listed(arguments: list[str]) -> str | None:
    """The options of the run that the command line names; None where it names none that can be read."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--workdir")
    folder = parser.parse_known_args(arguments)[0].workdir
    if folder is None:
        return None
    try:
        section = read_json(Path(folder) / "config.json").get("task", {})
        cls, values = pick(TASKS, section, "task")
    except UserError:
        return None
    options = cls.options()
    fields = {field.name: field.default for field in dataclasses.fields(cls)}
    known = [f"{name} ({described(hint)}, {values.get(name, fields[name])})" for name, hint in options.items()]
    return f"options of {folder} for --set, with their types and values: {', '.join(known) or 'none'}"


def check_other_data(overrides: Mapping[str, Any]) -> None:
    """Raises UserError where a command that measures a run would change more than its data."""
    for path in overrides:
        if not path.startswith("data."):
            raise UserError(f"--config.{path} is a part of what was trained: only --config.data... can be others")


def place_of(experiment: Experiment, name: str, changes: Mapping[str, Any]) -> Path:
    """Where results that were measured otherwise than at the run's end are kept: `evaluations/NAME.json` in its folder.

    changes: what was chosen. Raises UserError for a name that is taken by results of another choice, or is no name.
    """
    plain = all(letter.isalnum() or letter in "._-" for letter in name)
    if not plain or not 0 < len(name) <= 100 or name.startswith("."):
        raise UserError(f"--name {name!r} is not a name for a file: use up to 100 letters, digits, '.', '_' and '-'")
    path = own_folder(experiment.folder / "evaluations") / f"{name}.json"
    if path.exists():
        before = read_json(path)
        if before.get("changes") != changes:
            raise UserError(f"{path} has results of another choice ({before.get('changes')}): use another --name")
    return path


def record(experiment: Experiment, path: Path, changes: Mapping[str, Any], results: Mapping[str, float]) -> None:
    """Keeps such results at the place of them."""
    scorer = experiment.task.scorer()
    signatures = scorer.signatures() if scorer else {}
    write_json(path, {"changes": changes, "results": results, "signatures": signatures})
