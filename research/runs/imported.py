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
from research.training.checkpoints import Checkpoints
from research.weights.families import TIMM
from research.weights.match import check, read
from research.weights.preprocessing import photo_of, sentences_of, vocabulary_of
from research.weights.published import Published, labels_of, read_published

SOURCE = "published.json"
"""The config.json of the published model, in the run's folder."""
FINE_TUNING = {
    "optimizer": {"name": "adamw", "learning_rate": 2e-5, "weight_decay": 0.01, "clip_norm": 1.0},
    "schedule": {"name": "linear", "warmup": {"steps": 100}},
    "training": {"batch_size": 32, "duration": {"epochs": 3}},
}
"""Section of the config that the weights do not decide: usual values for fine-tuning."""
DATA = {
    "classification": {"name": "image_folder", "path": "my_photos"},
    "sentences": {"name": "parallel_text", "train_source": "my_train.en", "train_target": "my_train.de"},
    "language_modeling": {"name": "text_file", "path": "my_text.txt"},
}
"""Data of each task, of names that a person replaces: `evaluate --config.data.path=...`."""


def import_model(source: Path, folder: Path, reference: Path | None = None) -> Mapping[str, Any]:
    """Makes a run's folder of a published model; returns its certificate.

    reference: a file of a reference library's answers (see `certify`). Raises UserError where the weights do not fit
    the model, where the model has no task here, and where the folder holds something already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty: give a new folder for the imported model")
    published = read_published(source)
    check(published.match, str(source))
    config = config_of(published)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        run = Path(scratch) / "run"
        run.mkdir()
        certificate = _import(published, config, run, reference)
        run.rename(folder)  # whole or not at all
    return certificate


def _import(published: Published, config: ConfigDict, folder: Path, reference: Path | None) -> Mapping[str, Any]:
    _bring(published, config.task.name, folder)
    write_text(folder / "config.json", to_json(config) + "\n")
    write_json(folder / SOURCE, dict(published.config))
    experiment = build_experiment(config, folder, stored=True)
    _keep_shapes(experiment)
    state = experiment.loaded(read(published.match, published.arrays))
    with Checkpoints(folder / "checkpoints", experiment.checkpoint) as checkpoints:
        checkpoints.save(state, 0, {"belongings": dict(experiment.belongings)}, {})
    write_manifest(folder, experiment.seed)
    return certify(experiment, published, reference)


def config_of(published: Published) -> ConfigDict:
    """The config of a run of the model. Raises UserError for a model without a task."""
    model = published.model
    task = published.family.task if published.family else "classification"
    if task is None or (task == "classification" and not model.num_classes):
        raise UserError(
            f"{published.folder} has no head, or no vocabulary that is read here, and so no answers to give: start a "
            f"training from it, with train --from={published.folder}"
        )
    fields: dict[str, Any] = {"name": task}
    if task == "classification":
        fields |= photo_of(published.folder, published.config, published.image_size)
    elif task == "sentences":
        fields |= sentences_of(published.folder, published.config) | {"tokenizer": {"kind": "wordpiece"}}
        fields["length"] = min(fields["length"], model.max_length - model.first_position)
    else:
        fields |= {"length": model.max_length, "tokenizer": {"kind": "bpe", "specials": False}}
    if task != "classification":
        fields["tokenizer"]["vocab_size"] = model.vocab_size
    sections = {"seed": 0, "model": dict(published.section), "task": fields, "data": DATA[task], **FINE_TUNING}
    return ConfigDict(sections)


def _bring(published: Published, task: str, folder: Path) -> None:
    """Writes the vocabulary or the names of the classes. Raises UserError where they are not this model's."""
    if task == "classification":
        write_json(folder / "classes.json", _class_names(published))
        write_json(folder / "image.json", [None, None, 3])
        return
    vocabulary = vocabulary_of(published.folder, published.model.vocab_size)
    vocabulary.save(folder / "tokenizer.json")


def _class_names(published: Published) -> list[str]:
    if published.family:
        return labels_of(published.config)
    names = published.config.get("label_names")
    count = published.model.num_classes
    if isinstance(names, list) and len(names) == count and type(published.model) in TIMM:
        return [str(name) for name in names]
    return [str(number) for number in range(count)]


def _keep_shapes(experiment: Experiment) -> None:
    """Notes the shapes of a batch, from which the model's shapes follow, since the run has no data to find them in."""
    batch = question(experiment)
    shapes = {name: [array.dtype.name, [1, *array.shape[1:]]] for name, array in batch.items()}
    write_json(experiment.folder / "batch.json", shapes)
