"""CMA-ES (Hansen 2016) that is made anew from a study's trials: Optuna's own would unpickle it from the database."""

import itertools
import math
from typing import Any

import cmaes
import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

SIGMA = 1 / 6
"""The first step size, as a fraction of each range."""

Numeric = FloatDistribution | IntDistribution


class CmaEsSampler(optuna.samplers.BaseSampler):
    """Chooses the numbers that all trials have; anything else, and a single number, is drawn at random.

    What it chooses depends on the seed and on the complete trials alone: generations are these trials in order.
    """

    def __init__(self, seed: int):
        self._seed = seed
        self._others = optuna.samplers.RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        """The numbers that every complete trial has."""
        shared = optuna.search_space.intersection_search_space(_complete(study))
        numeric = {name: one for name, one in shared.items() if isinstance(one, Numeric) and not one.single()}
        return numeric if len(numeric) > 1 else {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        """The next point of the present generation."""
        if not search_space:
            return {}
        size = len(search_space)
        bounds = np.tile([0.0, 1.0], (size, 1))
        optimizer = cmaes.CMA(np.full(size, 0.5), SIGMA, bounds, seed=self._seed)
        sign = -1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1
        complete = [(one.params, one.value) for one in _complete(study)]
        trials = [(params, sign * value) for params, value in complete if value is not None and math.isfinite(value)]
        for generation in itertools.batched(trials, optimizer.population_size):
            if len(generation) == optimizer.population_size:
                optimizer.tell([(_place(params, search_space), value) for params, value in generation])
        chosen = zip(search_space.items(), optimizer.ask(), strict=True)
        return {name: _value(float(place), numeric) for (name, numeric), place in chosen}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value."""
        return self._others.sample_independent(study, trial, param_name, param_distribution)


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _ends(numeric: Numeric) -> tuple[float, float]:
    """Both ends of a range, in logarithms where it has them; whole numbers own half a step on either side."""
    half = 0.5 if isinstance(numeric, IntDistribution) else 0.0
    low, high = numeric.low - half, numeric.high + half
    return (math.log(low), math.log(high)) if numeric.log else (low, high)


def _place(params: dict[str, Any], space: dict[str, Numeric]) -> np.ndarray:
    """A point in the unit box."""
    places = []
    for name, numeric in space.items():
        low, high = _ends(numeric)
        value = math.log(params[name]) if numeric.log else params[name]
        places.append((value - low) / (high - low))
    return np.clip(places, 0, 1)


def _value(place: float, numeric: Numeric) -> int | float:
    low, high = _ends(numeric)
    value = low + place * (high - low)
    value = math.exp(value) if numeric.log else value
    value = round(value) if isinstance(numeric, IntDistribution) else value
    return min(max(value, numeric.low), numeric.high)
