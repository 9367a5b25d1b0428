"""Pictures of a sweep, as PNG files in its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState

from research.analysis.pictures import save_figure
from research.files import inside
from research.search_space import Range, Space
from research.sweeps.plan import Plan
from research.sweeps.results import Group, ranked, shown
from research.sweeps.space import plain
from research.sweeps.study import Study
from research.training.loggers import read_metrics

CURVES = 8
"""Points whose learning curves are drawn, the best."""


@matplotlib.rc_context({"text.parse_math": False})  # names and values are not formulas
def draw(study: Study) -> None:
    """`parallel.png`, `slices.png`, `curves.png`, and `importance.png` where results differ."""
    plan, trials = study.plan, study.trials()
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE and np.isfinite(trial.value or 0)]
    paths = [path for path in plan.space if path != "seed"]
    if not done:
        return
    if paths:
        parallel(plan.space, paths, done, plan, study.folder / "parallel.png")
        slices(plan.space, paths, done, plan.objective, study.folder / "slices.png")
    if len({trial.value for trial in done}) > 1:
        importance(study, study.folder / "importance.png")
    curves(study, ranked(plan, done)[:CURVES], study.folder / "curves.png")


def parallel(space: Space, paths: Sequence[str], trials: Sequence[FrozenTrial], plan: Plan, path: Path) -> None:
    """A line for each trial through its values, coloured by the objective, the best in front."""
    values = np.array([trial.value for trial in trials])
    best_last = np.argsort(values)[:: -1 if plan.direction == "minimize" else 1]
    colours = matplotlib.colormaps["viridis_r" if plan.direction == "minimize" else "viridis"]
    scale = Normalize(values.min(), values.max() if np.ptp(values) else values.min() + 1)
    figure = Figure(figsize=(2.2 * len(paths) + 3, 4.2), layout="constrained")
    axes = figure.subplots()
    heights = {name: _positions(space, name, trials) for name in paths}
    objective = (values - values.min()) / (np.ptp(values) or 1)
    for index in best_last:
        line = [*(heights[name][0][index] for name in paths), objective[index]]
        axes.plot(range(len(line)), line, color=colours(scale(values[index])), linewidth=1.6, alpha=0.85)
    ends = [(0.0, f"{values.min():.4g}"), (1.0, f"{values.max():.4g}")] if np.ptp(values) else []
    for column, labels in enumerate([*(heights[name][1] for name in paths), ends]):
        for height, text in labels:
            axes.annotate(text, (column, height), fontsize=8, xytext=(4, 0), textcoords="offset points", va="center")
        axes.axvline(column, color="0.7", linewidth=0.8, zorder=0)
    axes.set_xticks(range(len(paths) + 1), [*map(_short, paths), plan.objective], fontsize=8)
    axes.set_yticks([])
    axes.set(xlim=(-0.1, len(paths) + 0.3), ylim=(-0.12, 1.05))
    axes.spines[:].set_visible(False)
    figure.colorbar(ScalarMappable(scale, colours), ax=axes, label=plan.objective)
    save_figure(figure, path, 140)


def _positions(space: Space, name: str, trials: Sequence[FrozenTrial]) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Where each trial crosses an axis, 0 to 1 (-0.08: the path does not apply), and the axis' labels."""
    dimension = plain(space[name])
    given = [trial.params.get(name) for trial in trials]
    if isinstance(dimension, Range):
        transform = np.log if dimension.log else float
        low, high = transform(dimension.low), transform(dimension.high)
        marks = [
            np.exp(low + part * (high - low)) if dimension.log else low + part * (high - low) for part in (0, 0.5, 1)
        ]
        labels = [(part, f"{mark:.3g}") for part, mark in zip((0, 0.5, 1), marks, strict=True)]
        labels = labels[::2] if dimension.integer else labels
        heights = [-0.08 if value is None else (transform(value) - low) / (high - low) for value in given]
    else:
        names = [shown(value) for value in dimension.values]
        labels = [(index / max(len(names) - 1, 1), text) for index, text in enumerate(names)]
        places = {text: height for height, text in labels}
        heights = [-0.08 if value is None else places.get(shown(value), 0.0) for value in given]
    return np.array(heights, float), labels + ([(-0.08, "none")] if None in given else [])


def slices(space: Space, paths: Sequence[str], trials: Sequence[FrozenTrial], objective: str, path: Path) -> None:
    """The objective over each path, a dot for each trial."""
    columns = min(3, len(paths))
    lines = -(-len(paths) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * lines), layout="constrained")
    for axes, name in zip(figure.subplots(lines, columns, squeeze=False).flat, paths, strict=False):
        dimension = plain(space[name])
        dots = [(trial.params[name], trial.value) for trial in trials if name in trial.params]
        if isinstance(dimension, Range):
            axes.set_xscale("log" if dimension.log else "linear")
        else:
            names = [shown(value) for value in dimension.values]
            dots = [(names.index(shown(value)), result) for value, result in dots]
            axes.set_xticks(range(len(names)), names)
            axes.set_xlim(-0.5, len(names) - 0.5)
        if dots:
            axes.plot(*zip(*dots, strict=True), "o", markersize=5, alpha=0.7)
        axes.set(xlabel=name, ylabel=objective)
        axes.grid(alpha=0.3)
    for axes in figure.axes[len(paths) :]:
        axes.remove()
    save_figure(figure, path, 140)


def importance(study: Study, path: Path) -> None:
    """The share of the objective's variance that each path explains (fANOVA: Hutter et al. 2014)."""
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares: Mapping[str, float] = optuna.importance.get_param_importances(study.optuna(), evaluator=evaluator)
    if not shares:
        return
    figure = Figure(figsize=(6, 0.45 * len(shares) + 1.2), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(shares)[::-1], list(shares.values())[::-1])
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.set(xlabel=f"importance for {study.plan.objective}", xlim=(0, 1.1))
    save_figure(figure, path, 140)


def curves(study: Study, groups: Sequence[Group], path: Path) -> None:
    """The objective during training for the best points: the mean over seeds with its standard deviation."""
    figure = Figure(figsize=(7, 4 + 0.2 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for group in groups:
        _curve(axes, study, group)
    if axes.lines:
        axes.set(xlabel="step", ylabel=study.plan.objective)
        axes.grid(alpha=0.3)
        figure.legend(loc="outside lower center", fontsize=7, frameon=False)
        save_figure(figure, path, 140)


def _curve(axes: Axes, study: Study, group: Group) -> None:
    objective = study.plan.objective
    paths = [study.trial_folder(trial.number) / "metrics.jsonl" for trial in group.trials]
    runs = [read_metrics(path) for path in paths if inside(path, study.folder)]
    by_step = [{row["step"]: float(row[objective]) for row in rows if objective in row} for rows in runs]
    steps = sorted(set.intersection(*map(set, by_step))) if by_step else []
    if not steps:
        return
    values = np.array([[points[step] for step in steps] for points in by_step])
    label = ", ".join(f"{_short(name)} {shown(value)}" for name, value in group.point.items()) or "all"
    (line,) = axes.plot(steps, values.mean(0), marker="o", markersize=3, linewidth=1.4, label=label)
    if len(runs) > 1:
        spread = values.std(0, ddof=1)
        axes.fill_between(steps, values.mean(0) - spread, values.mean(0) + spread, color=line.get_color(), alpha=0.15)


def _short(name: str) -> str:
    return name.rpartition(".")[2].replace("_", " ")
