"""Runs: `research.runs.open("runs/minilm").answer(["Hello"])` asks a trained or an imported model."""

from pathlib import Path
from typing import Any


def open(folder: Path | str, checkpoint: int | str | None = None) -> Any:
    """The `Predictor` of a run's folder, or of an imported model's: see `research.runs.predictor.Predictor.open`."""
    from research.runs.predictor import Predictor  # what else is here shall not wait for all models to be imported

    return Predictor.open(folder, checkpoint)
