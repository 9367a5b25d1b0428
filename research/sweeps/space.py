"""The points of a search space: all of a grid, drawn ones, or those that Optuna suggests."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from research.config import build, check, choose, literal, load, load_sweep, suggestion
from research.errors import UserError
from research.parallel.mesh import MeshShape
from research.runs.experiment import SECTIONS
from research.runs.tables import MODELS, SOURCES, TASKS
from research.search_space import Choice, Dimension, Given, Point, Range, Space, choice
from research.training.checkpoints import CheckpointPolicy
from research.training.optimizers import OPTIMIZERS
from research.training.run import TrainingOptions
from research.training.schedules import SCHEDULES


def read_space(spec: str, swept: Mapping[str, str], seeds: int | None = None) -> Space:
    """What `swept` says, text like "1e-4,3e-4" for each path; where it says nothing, `sweep()` of the config file.

    seeds: the number of seeds, 0 and up, that every point is repeated with. Raises UserError for an empty or
    contradictory space; `check_space` looks at the values.
    """
    space = {path: choice(_values(text)) for path, text in swept.items()} or load_sweep(spec)
    if seeds is not None:
        if not 1 <= seeds <= 10_000 or "seed" in space:
            raise UserError(f"--seeds={seeds} needs 1 to 10,000, and a sweep without the path seed: change one of them")
        space["seed"] = choice(range(seeds))
    if not space:
        raise UserError(f"{spec} has no sweep(): define it, or give values such as --sweep.seed=0,1,2")
    for index, (path, dimension) in enumerate(space.items()):
        if not isinstance(dimension, Choice | Range | Given):
            raise UserError(f"sweep() gives {path} {dimension!r}: use choice([...]), uniform(low, high) and the like")
        before = list(itertools.islice(space, index))
        if isinstance(dimension, Given):
            if dimension.path not in before:
                hint = suggestion(dimension.path, before, "swept")
                raise UserError(f"{path} depends on {dimension.path}, which is not swept before it: {hint}")
            if dimension.value not in getattr(plain(space[dimension.path]), "values", ()):
                raise UserError(f"{path} waits for {dimension.path} to be {dimension.value!r}: make it a choice there")
    return dict(sorted(space.items(), key=lambda item: item[0] == "seed"))  # the seeds of a point follow one another


def _values(text: str) -> list[Any]:
    """ "1e-4,3e-4" or "pre,post"; a list among them keeps its brackets: "[1,2],[3,4]"."""
    whole = literal(f"[{text}]")
    return whole if isinstance(whole, list) else [literal(part) for part in text.split(",")]


def plain(dimension: Dimension) -> Choice | Range:
    """The values of a dimension, whatever they depend on."""
    return dimension.values if isinstance(dimension, Given) else dimension


def grid(space: Space, most: int = 100_000) -> list[Point]:
    """Every combination, the last path varying fastest.

    Raises UserError for a path without a list of values, and for more than `most` combinations.
    """
    points: list[Point] = [{}]
    for path, dimension in space.items():
        inner = plain(dimension)
        if not isinstance(inner, Choice):
            raise UserError(f"{path} is a range, which no grid covers: use choice([...]) or --sampler=random")
        points = [point | extra for point in points for extra in _options(path, dimension, point, inner.values)]
        if len(points) > most:
            raise UserError(f"the grid has more than {most:,} points: list fewer values, or use --sampler=random")
    return points


def draw(space: Space, generator: np.random.Generator) -> Point:
    """One random point."""
    point: Point = {}
    for path, dimension in space.items():
        inner = plain(dimension)
        value = _draw(inner, generator)  # drawn also where it does not apply, so that the others stay as they are
        (extra,) = _options(path, dimension, point, [value])
        point |= extra
    return point


def edges(space: Space) -> list[Point]:
    """Points that show each listed value, and both ends of each range, once at least."""
    points: list[Point] = [{}]
    for path, dimension in space.items():
        inner = plain(dimension)
        values = inner.values if isinstance(inner, Choice) else (inner.low, inner.high)
        first = [point | _options(path, dimension, point, values[:1])[0] for point in points]
        host = next((point for point in points if _applies(dimension, point)), None)
        points = first + ([host | {path: value} for value in values[1:]] if host is not None else [])
    return points


def suggest(trial: optuna.trial.Trial, space: Space) -> Point:
    """The trial's point: enqueued, stored already, or chosen now by the study's sampler."""
    point: Point = {}
    for path, dimension in space.items():
        inner = plain(dimension)
        if not _applies(dimension, point):
            continue
        if isinstance(inner, Choice):
            point[path] = decode(inner, trial.suggest_categorical(path, [encode(value) for value in inner.values]))
        elif inner.integer:
            point[path] = trial.suggest_int(path, int(inner.low), int(inner.high), log=inner.log)
        else:
            point[path] = trial.suggest_float(path, inner.low, inner.high, log=inner.log)
    return point


def distribution(dimension: Dimension) -> BaseDistribution:
    """A dimension as Optuna stores it with each trial that `suggest` gave a value."""
    inner = plain(dimension)
    if isinstance(inner, Choice):
        return CategoricalDistribution([encode(value) for value in inner.values])
    if inner.integer:
        return IntDistribution(int(inner.low), int(inner.high), log=inner.log)
    return FloatDistribution(inner.low, inner.high, log=inner.log)


def encode(value: Any) -> Any:
    """A value as Optuna stores it: lists as text."""
    return str(value) if isinstance(value, tuple) else value


def decode(dimension: Dimension, stored: Any) -> Any:
    """The value that `encode` made this of."""
    inner = plain(dimension)
    listed = inner.values if isinstance(inner, Choice) else ()
    return next((value for value in listed if encode(value) == stored), stored)


def overrides(point: Point) -> dict[str, str]:
    """The point's values as the text that `--config.path=text` takes; the arguments of the config file left out."""
    return {path: _text(value) for path, value in point.items() if not path.startswith(":")}


def spec_of(spec: str, point: Mapping[str, Any]) -> str:
    """The config file with the point's arguments: "a.py:tiny" and {":size": "base"} make "a.py:tiny,size=base"."""
    arguments = [f"{path[1:]}={value}" for path, value in point.items() if path.startswith(":")]
    return spec + (("," if ".py:" in spec else ":") + ",".join(arguments) if arguments else "")


def check_space(spec: str, given: Mapping[str, str], space: Space) -> None:
    """Builds the configs at the edges of the space, as far as that needs no data. Raises UserError for the first wrong.

    given: overrides that hold for every trial.
    """
    both = [path for path in given if path in space]
    if both:
        raise UserError(f"{both[0]} is swept and given: leave --config.{both[0]} out, or use --sweep.{both[0]}=VALUE")
    for point in edges(space):
        config = load(spec_of(spec, point), {**given, **overrides(point)})
        for name in config:
            if name not in SECTIONS:
                raise UserError(f"{name} is not a section of a config: {suggestion(name, SECTIONS, 'sections')}")
        sections = {"model": MODELS, "task": TASKS, "data": SOURCES}
        for name, table in sections.items():
            check(table, config.get(name, {}), name)
        choose(OPTIMIZERS, config.get("optimizer", {}), "optimizer")
        choose(SCHEDULES, config.get("schedule", {"name": "constant"}), "schedule")
        for cls, name in ((TrainingOptions, "training"), (MeshShape, "mesh"), (CheckpointPolicy, "checkpoint")):
            build(cls, config.get(name, {}), name)
        if not isinstance(config.get("seed", 0), int):
            raise UserError(f"seed is {config.seed!r}: use a whole number")


def _text(value: Any) -> str:
    text = str(value)
    return repr(value) if isinstance(value, str) and literal(text) != value else text


def _applies(dimension: Dimension, point: Point) -> bool:
    return not isinstance(dimension, Given) or (dimension.path in point and point[dimension.path] == dimension.value)


def _options(path: str, dimension: Dimension, point: Point, values: Iterable[Any]) -> list[Point]:
    return [{path: value} for value in values] if _applies(dimension, point) else [{}]


def _draw(dimension: Choice | Range, generator: np.random.Generator) -> Any:
    if isinstance(dimension, Choice):
        return dimension.values[generator.integers(len(dimension.values))]
    if dimension.integer:
        return int(generator.integers(int(dimension.low), int(dimension.high), endpoint=True))
    if dimension.log:
        return float(np.exp(generator.uniform(np.log(dimension.low), np.log(dimension.high))))
    return float(generator.uniform(dimension.low, dimension.high))
