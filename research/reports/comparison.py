"""Runs side by side: in what their configs differ, what they measured, and how sure a difference is."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Group
from rich.table import Table

from research.config import ABSENT, diff, suggestion
from research.errors import UserError
from research.reports.records import Record, read_run
from research.sweeps.compare import compare, runs_of

SHOWN = 60
"""Letters of a value."""


def comparison(folders: Sequence[Path], metric: str | None = None) -> Group:
    """A table of what the configs differ in, one of all results, and a sentence for each pair with shared seeds.

    folders: of runs, of sweeps (their best points are meant) or of runs that differ in their seed alone. metric: what
    the sentences are about, unless given each run's objective. Raises UserError for a folder that holds none of these,
    for two of one name, and for a metric that nobody measured.
    """
    names = [str(folder) for folder in folders]
    if len(folders) < 2 or len({*names}) < len(names):
        raise UserError(f"{', '.join(names)} are not two different folders: give two or more")
    groups = dict(zip(names, map(_group, folders), strict=True))
    parts: list[Table | str] = [_configs(groups), _results(groups, metric)]
    several = [folder for folder in folders if len(groups[str(folder)]) > 1]
    parts += [compare(several[0], other, metric) for other in several[1:]]
    if len(several) < len(folders):
        parts.append(
            "A single run says nothing about chance: give folders of the same two or more seeds for intervals."
        )
    return Group(*parts)


def _group(folder: Path) -> list[Record]:
    if any((folder / name).exists() for name in ("config.json", "metrics.jsonl")):
        return [read_run(folder)]
    return [read_run(run, root=folder) for run in runs_of(folder)]


def _configs(groups: Mapping[str, Sequence[Record]]) -> Table:
    table = Table("config", *groups, title="differing settings", title_justify="left", box=None)
    flat = {name: {path: value for path, _, value in diff({}, runs[0].config)} for name, runs in groups.items()}
    for path in sorted(set().union(*flat.values())):
        values = [str(settings.get(path, ABSENT)) for settings in flat.values()]
        if len({*values}) > 1 and (path != "seed" or all(len(runs) == 1 for runs in groups.values())):
            table.add_row(path, *(value if len(value) <= SHOWN else f"{value[:SHOWN]} ..." for value in values))
    return table


def _results(groups: Mapping[str, Sequence[Record]], metric: str | None) -> Table:
    table = Table("metric", *groups, title="results", title_justify="left", box=None)
    metrics = sorted({name for runs in groups.values() for run in runs for name in run.metrics})
    if metric is not None and metric not in metrics:
        raise UserError(f"nobody measured {metric}: {suggestion(metric, metrics, 'metrics')}")
    for name in metrics if metric is None else [metric]:
        table.add_row(
            name, *(_scale([run.metrics[name] for run in runs if name in run.metrics]) for runs in groups.values())
        )
    table.add_row("step", *(", ".join(dict.fromkeys(f"{run.step:,}" for run in runs)) for runs in groups.values()))
    table.add_row("state", *(", ".join(dict.fromkeys(run.state for run in runs)) for runs in groups.values()))
    return table


def _scale(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.5g}" if values else "-"
    return f"{statistics.fmean(values):.5g} ± {statistics.stdev(values):.2g} ({len(values)} runs)"
