"""Compares two groups of runs that differ in one thing, seed by seed, and says it as a paper would."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.config import read_config
from research.errors import UserError
from research.files import fits, inside, read_json
from research.sweeps.plan import objective_of
from research.training.loggers import number

RESAMPLES = 10_000

FILES = ("results.json", "config.json")
"""What is read of a run; a link to somewhere else is not followed."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Values of A and B, float64 [pairs], of which the same index has the same seed."""

    metric: str
    a: np.ndarray
    b: np.ndarray

    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean of B - A: percentiles of the paired bootstrap (Efron and Tibshirani 1993, 13)."""
        difference = self.b - self.a
        chosen = np.random.default_rng(0).integers(len(difference), size=(RESAMPLES, len(difference)))
        low, high = np.percentile(difference[chosen].mean(1), [2.5, 97.5])
        return float(low), float(high)

    def p_value(self) -> float:
        """Of the two-sided paired t-test: how often so large a difference would come by chance alone."""
        difference = self.b - self.a
        if np.ptp(difference) == 0:  # no spread to judge by
            return 1.0 if difference[0] == 0 else 0.0
        from scipy import stats  # takes seconds to import

        return float(stats.ttest_rel(self.b, self.a).pvalue)

    def verdict(self) -> str:
        """Whether B's values are higher or lower than A's, as far as the interval and the test agree on it.

        Where the interval holds 0, or the test says that chance alone does as much in one of 20 cases, it is neither.
        The bootstrap of so few pairs as there are seeds is too sure of itself, hence the test.
        """
        low, high = self.interval()
        if low <= 0 <= high or self.p_value() >= 0.05:
            return "no clear difference"
        return f"clearly {'higher' if low > 0 else 'lower'}"


def compare(a: Path, b: Path, metric: str | None = None) -> str:
    """The sentence about two sweeps (their best points) or two folders of runs. Raises UserError for missing pairs."""
    first, second = runs_of(a), runs_of(b)
    metric = metric or _metric(a, first)
    values, others = _by_seed(first, metric), _by_seed(second, metric)
    seeds = sorted(values.keys() & others.keys())
    missing = sorted(values.keys() ^ others.keys())
    if missing or len(seeds) < 2:
        lacking = a if missing and missing[0] in others else b
        what = f"{lacking} has no finished run of seed {missing[0]}" if missing else f"they share {len(seeds)} seed(s)"
        raise UserError(f"{a} and {b} make no pairs ({what}): run the same two or more seeds of both")
    result = Comparison(metric, np.array([values[s] for s in seeds]), np.array([others[s] for s in seeds]))
    return sentence(result, str(a), str(b))


def sentence(result: Comparison, a: str, b: str) -> str:
    """Means and deviations over seeds, their difference with its interval, and how sure it is."""
    low, high = result.interval()
    scales = [f"{group.mean():.4g} ± {group.std(ddof=1):.2g}" for group in (result.a, result.b)]
    p = result.p_value()
    return (
        f"{result.metric} is {scales[0]} for {a} and {scales[1]} for {b} (mean ± standard deviation of {len(result.a)} "
        f"seeds): a difference of {(result.b - result.a).mean():+.3g} (95 % interval {low:+.3g} to {high:+.3g}, paired "
        f"bootstrap; p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}, paired t-test): {result.verdict()}."
    )


def runs_of(folder: Path) -> list[Path]:
    """The runs of a sweep's best point, or all finished runs directly in a folder. Raises UserError for none."""
    if (folder / "sweep.json").exists():
        runs = [folder / run for run in _best(folder)["runs"]]
        files = (folder / "sweep.json", *(run / name for run in runs for name in FILES))
        outside = next((path for path in files if not inside(path, folder)), None)
        if outside is not None:
            raise UserError(f"{outside} leads out of {folder}: give the folder of the runs themselves")
        return runs
    found = sorted(path.parent for path in folder.glob("*/results.json"))
    runs = [run for run in found if all(inside(run / name, folder) for name in FILES)]
    if not runs:
        raise UserError(f"{folder} holds neither a sweep nor finished runs: give a sweep's folder, or a folder of runs")
    return runs


def _metric(folder: Path, runs: Sequence[Path]) -> str:
    if (folder / "sweep.json").exists():
        return str(read_json(folder / "sweep.json").get("objective"))
    return objective_of(read_config(runs[0] / "config.json"))


def _best(folder: Path) -> dict[str, Any]:
    best = read_json(folder / "sweep.json").get("best")
    if not fits(best, dict[str, Any]) or not fits(best.get("runs"), list[str]):
        raise UserError(f"{folder / 'sweep.json'} names no best runs: run the sweep again, which writes it")
    return best


def _by_seed(runs: Sequence[Path], metric: str) -> Mapping[int, float]:
    values: dict[int, float] = {}
    for run in runs:
        results = read_json(run / "results.json", dict[str, float])
        seed = read_config(run / "config.json").get("seed", 0)
        if not fits(seed, int):
            raise UserError(f"{run / 'config.json'} has the seed {seed!r}: restore it from a copy")
        if metric not in results:
            raise UserError(f"{run} has no result {metric}: use --metric with one of {', '.join(results)}")
        if seed in values:
            raise UserError(f"{run} is another run of seed {seed}: a group has one run for each seed")
        value = number(results[metric])
        if value is None or not math.isfinite(value):
            raise UserError(f"{run} has a {metric} of {results[metric]}, which nothing is compared with: leave it out")
        values[seed] = value
    return values
