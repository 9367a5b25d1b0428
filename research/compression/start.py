"""Candidates as run folders: those that are trained begin at step 0, those of other weights are complete."""

import contextlib
import dataclasses
import functools
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from research.compression.methods import Candidate, check, shrunk
from research.config import to_json
from research.errors import UserError
from research.files import read_json, write_json, write_text
from research.layers.scan import unstacked
from research.models.contract import WithHead
from research.parallel.sharding import SCANNED, by_path
from research.runs.experiment import Experiment, build_experiment, trained
from research.runs.folder import MADE_OF_DATA, write_manifest
from research.runs.importance import gate_importance
from research.runs.imported import SOURCE
from research.training.checkpoints import Checkpoints
from research.training.state import TrainState
from research.training.stored import WEIGHTS

PART = 3
"""A candidate is trained for the run's duration over this, unless another one is given."""
MADE_BY = "compressed.json"
"""In a candidate's folder: the run that it was made of, that run's step, and the methods."""
COPIED = (*MADE_OF_DATA, "batch.json", SOURCE)
DISTILLATION = {"weight": 0.5, "temperature": 2.0}


@dataclasses.dataclass(frozen=True, eq=False)
class Original:
    """The run that is made smaller, with the variables that it answers with, their parameters in float32."""

    experiment: Experiment
    variables: Mapping[str, Any]
    step: int

    @classmethod
    def open(cls, folder: Path) -> "Original":
        """That of a folder. Raises UserError where there is none, or where its weights are kept in fewer bits."""
        experiment, variables, step = trained(folder)
        if experiment.weights is not None:
            kept = experiment.config.weights.name
            raise UserError(f"{folder} keeps {kept} weights already: give the run that they were made of")
        return cls(experiment, variables, step)

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """Parameters and statistics by their paths, those of scanned layers apart."""
        host = jax.device_get(self.variables)
        return apart({path: leaf for tree in host.values() for path, leaf in by_path(tree).items()})

    @functools.cached_property
    def importance(self) -> dict[str, np.ndarray]:
        """What heads and neurons are worth, by the paths of `arrays`."""
        return apart(gate_importance(self.experiment, self.variables))

    def alike(self) -> dict[str, np.ndarray]:
        """The same with nothing worth more than another."""
        behind = {"out/kernel": 2, "down/kernel": 1}
        return {
            path: np.ones(array.shape[:-axes])
            for path, array in self.arrays.items()
            for end, axes in behind.items()
            if path.endswith(end)
        }


def apart(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays, those of scanned layers cut into single ones."""
    return unstacked(arrays, {path.replace(f"{SCANNED}/", "layer_0/") for path in arrays})


def smaller(
    original: Original, candidate: Candidate, *, sizes: bool = False
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The section `model` of a candidate, and its arrays.

    sizes: these alone are asked for, which do not depend on what heads and neurons are worth. Raises UserError where a
    method does not fit the model, or the task.
    """
    experiment = original.experiment
    section = json.loads(to_json(experiment.config.model))
    model: Any = experiment.model
    body = model.body if isinstance(model, WithHead) else model
    check(body, section, candidate.fractions)
    if experiment.task.compares and {"heads", "neurons"} & candidate.fractions.keys():
        raise UserError("the loss compares examples, and none has a gradient of its own: leave heads and neurons out")
    described = {
        name: vars(body)[name] for name in ("num_kv_heads", "value_size", "share_layers") if name in vars(body)
    }
    worth = original.alike if sizes else lambda: original.importance
    found, arrays = shrunk({**described, **section}, original.arrays, candidate.fractions, worth)
    asked = {name: value for name, value in found.items() if name in section or value != described.get(name)}
    if equal(arrays, original.arrays):
        raise UserError(f"{candidate.name} leaves the model as it is: give smaller fractions")
    return asked, arrays


def equal(arrays: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> bool:
    """Whether two models have the same shapes, so that one of them says all."""
    shapes = [{path: array.shape for path, array in each.items()} for each in (arrays, others)]
    return shapes[0] == shapes[1]


def start(original: Original, candidate: Candidate, folder: Path, duration: Mapping[str, Any] | None) -> None:
    """Makes the folder of a candidate that is to be trained, at step 0.

    duration: of its training; a third of the run's own unless given. Raises UserError where a method does not fit.
    """
    section, arrays = smaller(original, candidate)
    config = _config(original.experiment)
    config.model = ConfigDict(section)
    _shorten(config, duration)
    try:
        _begin(original, candidate, _taught(config, original.experiment.folder), arrays, folder)
    except UserError as error:  # such as of a task that has no logits; what else is wrong is raised below
        print(f"{candidate.name} learns from the labels alone: {error}", flush=True)
        _begin(original, candidate, config, arrays, folder)


def _begin(
    original: Original, candidate: Candidate, config: ConfigDict, arrays: Mapping[str, np.ndarray], folder: Path
) -> None:
    """Makes the folder, with the state of step 0."""
    with _new_run(original, candidate, config, folder) as experiment:
        state = experiment.loaded(_checked(experiment, arrays, candidate).items())
        fresh = experiment.run.create_state()
        params = {**fresh.params, **state.params}  # what a teacher adds for the training stays as it begins
        ema = None if fresh.ema is None else jax.tree.map(jnp.copy, params)
        _save(experiment, fresh.replace(params=params, model_state=state.model_state, ema=ema), 0, kept=False)


def store(original: Original, candidate: Candidate, source: Path, folder: Path) -> None:
    """Makes the folder of a candidate whose weights are those of the run `source`, kept in fewer bits."""
    experiment, variables, step = trained(source)
    config = _config(experiment)
    config.weights = {"name": candidate.weights}
    with _new_run(original, candidate, config, folder) as made:
        arrays = {path: leaf for tree in variables.values() for path, leaf in by_path(jax.device_get(tree)).items()}
        state = made.loaded(apart(arrays).items())
        params = WEIGHTS[candidate.weights or ""]().stored(state.params)
        _save(made, state.replace(params=params, step=jnp.int32(step), ema=None), step)


def _config(experiment: Experiment) -> ConfigDict:
    """The run's config without what is about the run alone."""
    config = ConfigDict(json.loads(to_json(experiment.config)))
    for section in ("transfer", "expect", "tracker", "distillation"):
        if section in config:
            del config[section]
    return config


def _shorten(config: ConfigDict, duration: Mapping[str, Any] | None) -> None:
    """Sets the duration of a candidate's training; with the run's own, shortened, the warm-up is as well."""
    if duration is not None:
        config.training.duration = ConfigDict(dict(duration))
        return
    shortened = [config.training.duration]
    if "schedule" in config and "warmup" in config.schedule:
        shortened.append(config.schedule.warmup)
    for stretch in shortened:
        for unit, value in stretch.items():
            stretch[unit] = math.ceil(value / PART) if isinstance(value, int) else value / PART


def _taught(config: ConfigDict, teacher: Path) -> ConfigDict:
    """The config with the run that the candidate is made of as its teacher."""
    taught = ConfigDict(json.loads(to_json(config)))
    taught.distillation = {"teacher": str(teacher.absolute()), **DISTILLATION}
    return taught


@contextlib.contextmanager
def _new_run(original: Original, candidate: Candidate, config: ConfigDict, folder: Path) -> Iterator[Experiment]:
    """The experiment of a new folder, which is there once the block ends well, whole."""
    source = original.experiment.folder
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        run = Path(scratch) / "run"
        run.mkdir()
        write_text(run / "config.json", to_json(config) + "\n")
        for name in COPIED:
            if (source / name).exists():
                shutil.copy(source / name, run / name)
        manifest = read_json(source / "manifest.json") if (source / "manifest.json").exists() else {}
        write_manifest(run, original.experiment.seed, manifest.get("data"))
        made = {"run": str(source.absolute()), "step": original.step, "methods": candidate.name}
        write_json(run / MADE_BY, made)
        yield build_experiment(config, run, stored=True)
        run.rename(folder)


def _checked(
    experiment: Experiment, arrays: Mapping[str, np.ndarray], candidate: Candidate
) -> Mapping[str, np.ndarray]:
    """The arrays. Raises UserError unless they are those of the experiment's model."""
    state = jax.eval_shape(experiment.create_state(None), {})
    trees = [state.params, *state.model_state.values()]
    wanted = {path: leaf.shape for tree in trees for path, leaf in by_path(tree).items()}
    scanned = {path: np.empty(shape, np.bool_) for path, shape in wanted.items()}
    if {path: array.shape for path, array in apart(scanned).items()} != {p: a.shape for p, a in arrays.items()}:
        raise UserError(
            f"model {experiment.config.model.name} does not become smaller by {candidate.name}: leave it out"
        )
    return arrays


def _save(experiment: Experiment, state: TrainState, step: int, *, kept: bool = True) -> None:
    with Checkpoints(experiment.folder / "checkpoints", experiment.checkpoint) as checkpoints:
        checkpoints.save(state, step, {"belongings": dict(experiment.belongings)}, {}, kept=kept)
