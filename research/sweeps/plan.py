"""What a sweep is: its space, what it makes better and which way, and the points that it tries."""

import dataclasses
import importlib.util
import json
from typing import Any, Literal

import numpy as np
from ml_collections import ConfigDict

from research.config import load, suggestion
from research.errors import UserError
from research.search_space import Choice, Point, Space
from research.sweeps.space import draw, grid

LOWER = ("loss", "perplexity", "nats", "bits", "error")
HIGHER = (
    "accuracy",
    "bleu",
    "exact_match",
    "chrf",
    "f1",
    "recall",
    "precision",
    "mrr",
    "matthews",
    "pearson",
    "spearman",
    "iou",
    "dice",
)

SEED = 0
"""Of the samplers: the same command tries the same points."""

MOST_TRIALS = 100_000
"""All of them are in the database from the start."""

SAMPLERS = ("grid", "random", "tpe", "cmaes")
PRUNERS = ("none", "halving", "hyperband", "median")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a sweep is. spec, given: the config and the overrides that all trials share.

    objective: a metric of the run's results, such as validation/loss, and the direction that is better.
    trials: how many, seeds included; None: all of a grid.
    """

    spec: str
    given: dict[str, str]
    space: Space
    objective: str
    direction: Literal["minimize", "maximize"]
    sampler: str = "grid"
    pruner: str = "none"
    trials: int | None = None

    def __post_init__(self):
        for option, value, valid in (("sampler", self.sampler, SAMPLERS), ("pruner", self.pruner, PRUNERS)):
            if value not in valid:
                raise UserError(f"--{option}={value} is unknown: {suggestion(value, valid, f'{option}s')}")
        if self.sampler == "cmaes" and not importlib.util.find_spec("cmaes"):
            raise UserError("--sampler=cmaes needs the package cmaes: install it, or use --sampler=tpe")
        if self.trials is not None and not 1 <= self.trials <= MOST_TRIALS:
            raise UserError(f"--trials={self.trials} is out of range: use 1 to {MOST_TRIALS:,}")

    def better(self, a: float, b: float) -> bool:
        """Whether a is the better value."""
        return a < b if self.direction == "minimize" else a > b

    def points(self) -> list[Point]:
        """The points of all trials; empty ones are left to the sampler. Raises UserError for an unfit --trials."""
        seed = self.space.get("seed")
        seeds = seed.values if isinstance(seed, Choice) else (None,)
        others = {path: dimension for path, dimension in self.space.items() if path != "seed" or seeds == (None,)}
        if self.sampler != "grid" and self.trials is None:
            raise UserError(f"--sampler={self.sampler} has no end of its own: give --trials=N")
        if self.sampler in ("tpe", "cmaes"):
            if len(seeds) > 1:
                raise UserError(f"--sampler={self.sampler} tries no point twice: leave the seeds out, or use random")
            return [{} for _ in range(self.trials or 0)]
        if self.trials is not None and self.trials % len(seeds):
            raise UserError(f"--trials={self.trials} is not divisible by the {len(seeds)} seeds: use a multiple")
        count = None if self.trials is None else self.trials // len(seeds)
        if self.sampler == "random":
            points = [draw(others, np.random.default_rng([SEED, index])) for index in range(count or 0)]
        else:
            points = _part(grid(others, MOST_TRIALS // len(seeds)), count, len(seeds))
        return [point if seed is None else point | {"seed": seed} for point in points for seed in seeds]

    def describe(self) -> dict[str, Any]:
        """What makes it this sweep and no other, as JSON holds it."""
        config = load(self.spec, self.given).to_dict()
        for name in ("expect", "mesh"):  # they change nothing of what is learnt
            config.pop(name, None)
        space = {path: str(dimension) for path, dimension in self.space.items()}
        names = ("objective", "direction", "sampler", "pruner")
        whole = {"config": config, "sweep": space} | {name: getattr(self, name) for name in names}
        return json.loads(json.dumps(whole))


def _part(points: list[Point], count: int | None, seeds: int) -> list[Point]:
    """All points in order, or the first `count` in a random order that is always the same."""
    if count is None or count == len(points):
        return points
    if count > len(points):
        size = len(points) * seeds
        raise UserError(f"the grid has {size} trials, not {count * seeds}: use --trials={size}, or leave it out")
    order = np.random.default_rng(SEED).permutation(len(points))
    return [points[index] for index in order[:count]]


def objective_of(config: ConfigDict) -> str:
    """What the config keeps its best checkpoint by, else what it expects, on the validation split; else the loss."""
    if best := (config.get("checkpoint") or {}).get("best"):
        return best
    expected = (config.get("expect") or {}).get("metric", "validation/loss")
    return "validation/" + expected.rpartition("/")[2]


def direction_of(objective: str, config: ConfigDict) -> Literal["minimize", "maximize"]:
    """From `checkpoint.mode` where the objective is `checkpoint.best`, else from the metric's name.

    Raises UserError for a name that says nothing.
    """
    checkpoint = config.get("checkpoint") or {}
    if checkpoint.get("best") == objective:
        return "maximize" if checkpoint.get("mode", "min") == "max" else "minimize"
    name = objective.lower()
    if any(word in name for word in LOWER):
        return "minimize"
    if any(word in name for word in HIGHER):
        return "maximize"
    raise UserError(f"--objective={objective} does not say what is better: add --direction=minimize or maximize")
