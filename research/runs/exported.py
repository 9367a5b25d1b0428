"""A run's model as transformers or timm read it: weights, `config.json`, tokenizer and preprocessing."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from safetensors.numpy import save_file

from research.errors import UserError
from research.files import read_json, write_json
from research.layers.scan import unstacked
from research.parallel.sharding import by_path
from research.runs.experiment import Experiment, trained
from research.runs.imported import SOURCE
from research.weights import timm
from research.weights.families import FAMILIES, LABELS, TIMM, Family
from research.weights.files import ONE
from research.weights.match import shapes_of, theirs
from research.weights.preprocessing import FILE, distinct, masks_written
from research.weights.published import built, image_size, labels_of
from research.weights.table import Table

TRAINING_ONLY = {"remat", "scan", "dropout", "attention_dropout", "activation_dropout", "stochastic_depth"}
TRAINING_ONLY |= {"frozen_norm", "parent", "name"}
"""Fields that change nothing of what a trained model answers."""

COLOURS = 3
HEADED = ("LMHeadModel", "MTModel")
"""How architectures end that have a head and yet are called a model."""


def export_model(run: Path, folder: Path, library: str | None = None) -> list[Path]:
    """Writes a run's evaluated model into a new folder; the files that were written.

    library: "transformers" or "timm"; the one that the run was imported from, or the first that knows such a model.
    Raises UserError where neither does, or where the folder holds something already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty: give a new folder for the exported model")
    experiment, variables, _ = trained(run)
    model, inputs = experiment.model, experiment.task.model_inputs(experiment.sample_batch)
    shapes = shapes_of(model, inputs)
    arrays = {path: leaf for tree in variables.values() for path, leaf in by_path(jax.device_get(tree)).items()}
    arrays = unstacked(arrays, shapes)
    before = read_json(run / SOURCE) if (run / SOURCE).exists() else {}
    library = library or ("timm" if "architecture" in before else "transformers")
    made: Mapping[str, np.ndarray] = {}
    if library == "timm":
        table, config = _as_timm(experiment, before)
        prefixed = False
    else:
        family, config = _as_transformers(experiment, before)
        (table,) = family.tables(model)
        prefixed = not config["architectures"][0].endswith("Model") or config["architectures"][0].endswith(HEADED)
        made = family.made(model, image_size(config))
    if unnamed := sorted(shapes.keys() - {path for entry in table.entries(shapes) for path in entry.ours}):
        raise UserError(f"{library} has no names for {unnamed[0]}: export a model without it")
    folder.mkdir(parents=True, exist_ok=True)
    made = {table.written(name, prefixed=prefixed): array for name, array in made.items()}
    save_file({**theirs(table, arrays, prefixed=prefixed), **made}, folder / ONE, {"format": "pt"})
    write_json(folder / "config.json", config)
    _bring(experiment, folder, library)
    return sorted(folder.iterdir())


def _as_transformers(experiment: Experiment, before: Mapping[str, Any]) -> tuple[Family, dict[str, Any]]:
    """The family and `config.json`."""
    model: Any = experiment.model
    known = [one for one in FAMILIES if one.cls is type(model)]
    kinds = [one for one in known if before.get("model_type", one.name) == one.name]
    refused = ""
    for family in kinds:
        for architecture, variants in family.architectures.items():
            for variant in variants:
                config = family.fields.theirs(vars(model)) | {
                    "model_type": family.name,
                    "architectures": [architecture],
                }
                if refused := _differing(model, family, config, variant):
                    continue
                names = getattr(experiment.task, "class_names", None)
                if names and [*names] != distinct(labels_of(before)):
                    config |= {"id2label": {str(number): name for number, name in enumerate(names)}}
                    config |= {"label2id": {name: number for number, name in enumerate(names)}}
                photo, shape = (getattr(experiment.task, name, None) for name in ("photo", "image_shape"))
                if photo is not None:
                    config["image_size"] = photo.size
                elif shape is not None and shape[0]:
                    config["image_size"] = _side(shape)
                if shape is not None:
                    _say_channels(config, shape[2])
                return family, {**before, **config}
    why = f"its {refused} is not one of theirs" if refused else "it has no such models"
    raise UserError(f"transformers cannot read this {experiment.config.model.name} ({why}): try --library=timm")


def _say_channels(config: dict[str, Any], channels: int) -> None:
    """Puts the number of the images' channels where a config has one, which is 3 of its own accord."""
    for section in (config, config.get("backbone_config", {})):
        if "num_channels" in section:
            section["num_channels"] = channels


def _side(shape: tuple[int, int, int]) -> int:
    """Of images that all are square. Raises UserError for others."""
    if shape[0] != shape[1]:
        raise UserError(f"transformers has square images, and this run's are {shape[0]} x {shape[1]}: train on squares")
    return shape[0]


def _differing(model: Any, family: Family, config: Mapping[str, Any], variant: Mapping[str, Any]) -> str:
    """The first field in which the model that a config makes differs from this one; "" where none does."""
    labels = {name: getattr(model, name) for name, value in variant.items() if value is LABELS}
    return _first(model, built(family.model, {**family.fields.ours(config), **variant, **labels}))


def _first(model: Any, other: Any) -> str:
    """The first field that differs between two models of one class, a dotted path within a model of its own."""
    for field in dataclasses.fields(model):
        if field.name in TRAINING_ONLY:
            continue
        one, two = getattr(model, field.name), getattr(other, field.name)
        nested = isinstance(one, nn.Module) and type(one) is type(two)
        if nested and (found := _first(one, two)):
            return f"{field.name}.{found}"
        if not nested and one != two:
            return field.name
    return ""


def _as_timm(experiment: Experiment, before: Mapping[str, Any]) -> tuple[Table, dict[str, Any]]:
    model: Any = experiment.model
    task: Any = experiment.task
    if type(model) not in TIMM:
        raise UserError(f"timm has no {experiment.config.model.name}: use --library=transformers")
    name = before.get("architecture") or timm.name_of(experiment.config.model.name, model)
    if name is None:
        raise UserError("timm has no architecture of these sizes: use --library=transformers, or a published size")
    config: dict[str, Any] = {"architecture": name, "num_classes": model.num_classes}
    channels = task.image_shape[2]
    if channels != COLOURS:
        config["model_args"] = {"in_chans": channels}
    mean, deviation = (np.broadcast_to(value, channels).tolist() for value in (task.mean, task.deviation))
    pretrained = {"num_classes": model.num_classes, "mean": mean, "std": deviation}
    if task.photo is not None:
        size, middle = task.photo.size, task.photo.crop == "random_resized"
        pretrained |= {"input_size": [channels, size, size], "interpolation": task.photo.interpolation}
        pretrained["crop_pct"] = task.photo.crop_fraction if middle else 1.0
    old = before.get("pretrained_cfg")
    (table,) = TIMM[type(model)](model)
    return table, {**before, **config} | {"pretrained_cfg": (old if isinstance(old, dict) else {}) | pretrained}


def _bring(experiment: Experiment, folder: Path, library: str) -> None:
    """Writes the tokenizer and, for transformers, what else it has to know, such as the preprocessing of images."""
    if (vocabulary := getattr(experiment.task, "vocabulary", None)) is not None:
        vocabulary.publish(folder)
    files = experiment.task.published(experiment.model) if library == "transformers" else {}
    if FILE in files:
        files[FILE] |= masks_written(experiment.config.data)
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_json(folder / name, content)
