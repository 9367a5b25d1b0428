"""A command with the examples of the documentation in place: `python -m tests.with_examples train --config=...`."""

import importlib.util
import runpy
import sys
import types
from pathlib import Path

from research.runs.tables import MODELS, TASKS

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"


def example(name: str) -> types.ModuleType:
    """A file of docs/examples, imported."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    MODELS["cvt"] = example("cvt").CVT
    TASKS["tagging"] = example("tagging").Tagging
    command = sys.argv.pop(1)
    runpy.run_module(f"experiments.{command}", run_name="__main__")
