"""A run's model as transformers or timm read it: weights, `config.json`, tokenizer and preprocessing."""

import dataclasses
import tempfile
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from safetensors.numpy import save_file

from research.errors import UserError
from research.files import read_json, write_json
from research.layers.scan import unstacked
from research.models.contract import WithHead
from research.parallel.sharding import by_path
from research.runs.experiment import Experiment, trained
from research.runs.imported import SOURCE
from research.runs.tables import MODELS, TASKS
from research.weights import timm
from research.weights.families import FAMILIES, TIMM
from research.weights.family import LABELS, Family
from research.weights.fields import part_of
from research.weights.files import ONE
from research.weights.match import shapes_of, theirs
from research.weights.preprocessing import FILE, masks_written
from research.weights.published import built, distinct, image_size, labels_of
from research.weights.table import Table

TRAINING_ONLY = {"remat", "scan", "dropout", "attention_dropout", "activation_dropout", "stochastic_depth"}
TRAINING_ONLY |= {"frozen_norm", "parent", "name"}
TRAINING_ONLY |= {"scale", "limit"}  # of two towers: where it starts, and what is written as it is held
"""Fields that change nothing of what a trained model answers."""

COLOURS = 3
"""Channels of an image where nothing else is said."""
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
    files = dict(experiment.task.published(experiment.model)) if library == "transformers" else {}
    own = files.pop("config.json", {})
    if "pad_token_id" in config.keys() & own.keys() and not before and config["pad_token_id"] != own["pad_token_id"]:
        raise UserError(
            f"transformers' model pads with the token {config['pad_token_id']} and counts positions by it, and this "
            f"run's vocabulary with {own['pad_token_id']}: train with a RoBERTa's tokenizer, or model.first_position 0"
        )
    for name, part in own.items():
        config[name] = config[name] | part if isinstance(part, dict) and name in config else part
    made = {table.written(name, prefixed=prefixed): array for name, array in made.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        written = Path(scratch) / "model"
        written.mkdir()
        save_file({**theirs(table, arrays, prefixed=prefixed), **made}, written / ONE, {"format": "pt"})
        write_json(written / "config.json", config)
        _bring(experiment, written, files)
        written.rename(folder)  # whole or not at all
    return sorted(folder.iterdir())


def _as_transformers(experiment: Experiment, before: Mapping[str, Any]) -> tuple[Family, dict[str, Any]]:
    """The family and `config.json`."""
    model: Any = experiment.model
    kinds = [one for one in FAMILIES if before.get("model_type", one.name) == one.name and _is_of(experiment, one)]
    differing: list[dict[str, Any]] = []
    refused: UserError | None = None
    for family in kinds:
        for architecture, variants in family.architectures.items():
            own = {"model_type": family.name, "architectures": [architecture]}
            try:
                config: dict[str, Any] = {**family.fields.theirs(_settled(vars(_body(model)))), **own}
                found = [_differing(model, family, config, variant) for variant in variants]
            except UserError as error:
                refused = refused or error
                continue
            if {} in found:
                config |= _labels(experiment, before)
                config.get("vision_config", config).update(_images(experiment.task))
                if (shape := getattr(experiment.task, "image_shape", None)) is not None:
                    _say_channels(config, shape[2])
                return family, _over(before, config, family)
            differing += found
    name = experiment.config.model.name
    if not differing:
        raise refused or UserError(f"transformers has no {name} that is known here: use --library=timm, or another")
    wanted = ", ".join(f"{field} {value!r}" for field, value in min(differing, key=len).items())
    raise UserError(f"transformers' nearest model to this {name} has {wanted}: train with that to export it")


def _is_of(experiment: Experiment, family: Family) -> bool:
    """Whether a run's model is one of a family's, under a new layer of the same task where the family has one."""
    model: Any = experiment.model
    same = type(_body(model)) is MODELS[family.model] and isinstance(model, WithHead) == family.headed
    return same and (not family.headed or isinstance(experiment.task, TASKS[family.task or ""]))


def _body(model: Any) -> Any:
    return model.body if isinstance(model, WithHead) else model


def _labels(experiment: Experiment, before: Mapping[str, Any]) -> dict[str, Any]:
    """The names of the classes, and of outputs that have none where nothing says how many there are."""
    names = getattr(experiment.task, "class_names", None)
    if names and "id2label" in before and [*names] == distinct(labels_of(before)):
        return {}
    if not names and isinstance(experiment.model, WithHead) and "id2label" not in before:
        names = [f"LABEL_{number}" for number in range(experiment.model.outputs)]
    labels = {str(number): name for number, name in enumerate(names or ())}
    return {"id2label": labels, "label2id": {name: int(key) for key, name in labels.items()}} if labels else {}


def _images(task: Any) -> dict[str, Any]:
    photo, shape = (getattr(task, name, None) for name in ("photo", "image_shape"))
    if photo is not None:
        return {"image_size": photo.size}
    return {"image_size": _side(shape)} if shape is not None and shape[0] else {}


def _say_channels(config: dict[str, Any], channels: int) -> None:
    """Puts the number of the images' channels where a config has one, which is 3 of its own accord."""
    for section in (config, config.get("backbone_config", {}), config.get("vision_config", {})):
        if "num_channels" in section:
            section["num_channels"] = channels


def _side(shape: tuple[int, int, int]) -> int:
    """Of images that all are square. Raises UserError for others."""
    if shape[0] != shape[1]:
        raise UserError(f"transformers has square images, and this run's are {shape[0]} x {shape[1]}: train on squares")
    return shape[0]


def _over(before: Mapping[str, Any], config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """The `config.json` that a run was imported with, with what is so of its model now."""
    parts = {one.theirs: _kept(part_of(before, one.theirs)) | config[one.theirs] for one in family.fields.sections}
    left = {key: value for key, value in _kept(before).items() if key.removesuffix("_dict") not in parts}
    return {**left, **config, **parts}


def _kept(before: Mapping[str, Any]) -> dict[str, Any]:
    """What still holds of a published config: the arrays are float32 now, whatever they were."""
    return {key: "float32" if key in ("dtype", "torch_dtype") else value for key, value in before.items()}


def _differing(model: Any, family: Family, config: Mapping[str, Any], variant: Mapping[str, Any]) -> dict[str, Any]:
    """The fields in which the model that a config makes differs from this one, with that model's values.

    Under a new layer no head of the model counts: it is asked for its states, or for what its pooler gives.
    """
    body = _body(model)
    fields = {name: getattr(body, name) if value is LABELS else value for name, value in variant.items()}
    other = built(family.model, {**family.fields.ours(config), **fields})
    found = _unlike(body, other, TRAINING_ONLY if body is model else TRAINING_ONLY | {"head"})
    if isinstance(model, WithHead) and model.pool != family.pool:
        found |= {"task.pool": family.pool, "model.head": variant["head"]}
    return found


def _unlike(model: nn.Module, other: nn.Module, ignored: Set[str], where: str = "model") -> dict[str, Any]:
    """The fields in which two models differ, such as "model.text.width", with the other one's values."""
    here, there = _settled(vars(model)), _settled(vars(other))
    found: dict[str, Any] = {}
    for field in dataclasses.fields(model):
        if field.name in ignored:
            continue
        own, theirs, name = here[field.name], there[field.name], f"{where}.{field.name}"
        if isinstance(own, nn.Module) and type(own) is type(theirs):
            found |= _unlike(own, theirs, ignored, name)
        elif own != theirs:
            found[name] = type(theirs).__name__ if isinstance(theirs, nn.Module) else theirs
    return found


def _settled(fields: Mapping[str, Any]) -> dict[str, Any]:
    """All fields of a model, with numbers for those that follow from others unless they are given."""
    follow = {}
    if "num_decoder_layers" in fields:
        follow["num_decoder_layers"] = fields["num_layers"]
    if "head_size" in fields:
        follow["head_size"] = fields["width"] // fields["num_heads"]
    if "mlp_width" in fields:
        follow["mlp_width"] = 4 * fields["width"]
    settled = {**fields, **{name: value for name, value in follow.items() if fields[name] is None}}
    settled = {name: list(value) if isinstance(value, tuple) else value for name, value in settled.items()}
    if "bias" in fields:  # of two towers' logits: where it starts, if there is one
        settled["bias"] = None if fields["bias"] is None else "a number"
    return settled


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


def _bring(experiment: Experiment, folder: Path, files: dict[str, Any]) -> None:
    """Writes the tokenizer, and the files that the task has for transformers, such as the preprocessing of images."""
    if (vocabulary := getattr(experiment.task, "vocabulary", None)) is not None:
        segments = getattr(_body(experiment.model), "segments", 1) > 1
        task = experiment.task
        vocabulary.publish(folder, task.text_marks, segments=segments, longest=task.text_length)
    if FILE in files:
        files[FILE] |= masks_written(experiment.config.data)
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_json(folder / name, content)
