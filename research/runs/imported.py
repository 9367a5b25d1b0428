"""A published model as a run's folder, which every command takes: its config, checkpoint of step 0 and certificate."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from research.config import to_json
from research.errors import UserError
from research.files import write_json, write_text
from research.runs.certificate import certify, question
from research.runs.experiment import Experiment, build_experiment
from research.runs.folder import write_manifest
from research.runs.tables import TASKS
from research.tasks.task import no_answers
from research.training.checkpoints import Checkpoints
from research.weights.match import check, read
from research.weights.published import Published, read_published

SOURCE = "published.json"
"""The config.json of the published model, in the run's folder."""
FINE_TUNING = {
    "optimizer": {"name": "adamw", "learning_rate": 2e-5, "weight_decay": 0.01, "clip_norm": 1.0},
    "schedule": {"name": "linear", "warmup": {"steps": 100}},
    "training": {"batch_size": 32, "duration": {"epochs": 3}},
}
"""Section of the config that the weights do not decide: usual values for fine-tuning."""


def import_model(source: Path, folder: Path, reference: Path | None = None) -> Mapping[str, Any]:
    """Makes a run's folder of a published model; returns its certificate.

    reference: a file of a reference library's answers (see `certify`). Raises UserError where the weights do not fit
    the model, where the model has no task here, and where the folder holds something already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty: give a new folder for the imported model")
    published = read_published(source)
    check(published.match, str(source))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        run = Path(scratch) / "run"
        run.mkdir()
        certificate = _import(published, run, reference)
        run.rename(folder)  # whole or not at all
    return certificate


def _import(published: Published, folder: Path, reference: Path | None) -> Mapping[str, Any]:
    task = published.family.task if published.family else "classification"
    if task is None:
        raise no_answers(published.folder)
    sections = TASKS[task].from_published(published, folder)
    sections |= {"task": {"name": task, **sections["task"]}, "model": dict(published.section), "seed": 0}
    config = ConfigDict(sections | FINE_TUNING)
    write_text(folder / "config.json", to_json(config) + "\n")
    write_json(folder / SOURCE, dict(published.config))
    experiment = build_experiment(config, folder, stored=True)
    _keep_shapes(experiment)
    state = experiment.loaded(read(published.match, published.arrays))
    with Checkpoints(folder / "checkpoints", experiment.checkpoint) as checkpoints:
        checkpoints.save(state, 0, {"belongings": dict(experiment.belongings)}, {})
    write_manifest(folder, experiment.seed)
    return certify(experiment, published, reference)


def _keep_shapes(experiment: Experiment) -> None:
    """Notes the shapes of a batch, from which the model's shapes follow, since the run has no data to find them in."""
    batch = question(experiment)
    shapes = {name: [array.dtype.name, [1, *array.shape[1:]]] for name, array in batch.items()}
    write_json(experiment.folder / "batch.json", shapes)
