"""Published weights in and out: `python -m experiments.weights import FOLDER RUN`, and `export`, `diff`, `verify`.

FOLDER holds what transformers or timm publish (`config.json`, `model.safetensors` or its shards, and what belongs to
them), or is an original Vision Transformer's .npz file. RUN becomes the folder of a run, which every command takes.
"hf:OWNER/NAME" is one on the Hugging Face hub. docs/weights.md has the models that are known.
"""

import argparse
from pathlib import Path

from research.hub import fetched
from research.runs.certificate import verify
from research.runs.command import add_plugin, run_command
from research.runs.difference import difference
from research.runs.exported import export_model
from research.runs.imported import import_model


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    run = arguments.run and Path(arguments.run)
    folder = arguments.folder and (Path if arguments.action == "export" else fetched)(arguments.folder)
    if arguments.action == "import":
        certificate = import_model(folder, run, arguments.reference and Path(arguments.reference))
        print(f"{certificate['parameters']:,} parameters, {certificate['used']} arrays used")
        for name, why in certificate["dropped"].items():
            print(f"left out: {name} ({why})")
        if certificate["reference"]:
            print(f"largest difference from the reference: {certificate['reference']['largest_difference']:.3g}")
        print(f"the run is {run}")
    elif arguments.action == "export":
        for path in export_model(run, folder, arguments.library):
            print(f"wrote {path}")
    elif arguments.action == "diff":
        print(*difference(folder, run), sep="\n")
    else:
        print(*verify(run, folder), sep="\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.weights", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    brought = actions.add_parser("import", help="make a run of a published model, with a certificate")
    brought.add_argument("folder", metavar="FOLDER", help="the published model")
    brought.add_argument("run", metavar="RUN", help="a new folder")
    brought.add_argument(
        "--reference", metavar="FILE", help="a reference library's inputs and answers, to compare with"
    )
    written = actions.add_parser("export", help="write a run's model as transformers or timm read it")
    written.add_argument("run", metavar="RUN", help="the run's folder")
    written.add_argument("folder", metavar="FOLDER", help="a new folder")
    written.add_argument("--library", choices=("transformers", "timm"), help="whose names (those it was imported from)")
    compared = actions.add_parser("diff", help="list the arrays of weights and of a model side by side")
    compared.add_argument("folder", metavar="FOLDER", help="the published model")
    compared.add_argument(
        "run", metavar="RUN", nargs="?", help="a run to compare with, in place of its own config.json"
    )
    checked = actions.add_parser("verify", help="recompute the certificate of an imported run")
    checked.add_argument("run", metavar="RUN", help="the run's folder")
    checked.add_argument("folder", metavar="FOLDER", nargs="?", help="where the published model is now")
    return parser


if __name__ == "__main__":
    parser = _parser()
    add_plugin(parser)
    run_command(main, parser)
