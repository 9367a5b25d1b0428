"""Charts as plotly's figures in plain JSON: data and layout. The page gives them its colours, light or dark."""

import collections
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.analysis.downsample import kept_points
from research.reports.records import Record
from research.training.loggers import number

type Chart = dict[str, Any]
"""`title`, `data` (traces; `meta.colour` counts the page's series colours) and `layout`."""


def groups(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The runs that differ in nothing but their seed, by a name for them; no two have the same."""
    by_config: dict[str, list[Record]] = {}
    for record in records:
        rest = {section: values for section, values in record.config.items() if section != "seed"}
        by_config.setdefault(json.dumps(rest) if rest else str(record.folder), []).append(record)
    named: dict[str, list[Record]] = {}
    seen = collections.Counter(map(_name, by_config.values()))
    for members in by_config.values():
        name = _name(members)
        if seen[name] > 1:  # runs of other folders: told by those
            name = f"{members[0].folder.resolve().parent.name}/{name}"
        number = next(count for count in range(1, len(records) + 1) if _numbered(name, count) not in named)
        named[_numbered(name, number)] = members
    return named


def _numbered(name: str, count: int) -> str:
    return name if count == 1 else f"{name} ({count})"


def _name(members: Sequence[Record]) -> str:
    if len(members) == 1:
        return members[0].name
    return f"{members[0].name.rstrip('0123456789').rstrip('_-. ') or members[0].name} ({len(members)} seeds)"


def learning_curves(records: Sequence[Record]) -> list[Chart]:
    """One chart for each metric: the loss, other validated metrics, those of training alone, and its speed."""
    names = {name for record in records for row in record.rows for name in row if "/" in name}
    metrics = {name.partition("/")[2] for name in names if not name.startswith("time/")}
    validated = {metric for metric in metrics if f"validation/{metric}" in names}
    ordered = sorted(metrics, key=lambda metric: (metric != "loss", metric not in validated, metric))
    curves = [_curves(groups(records), metric, ("train", "validation")) for metric in ordered]
    return [*curves, *([_curves(groups(records), "examples_per_second", ("time",))] if names else [])]


def _curves(members: Mapping[str, Sequence[Record]], metric: str, splits: Sequence[str]) -> Chart:
    data = []
    for index, (name, records) in enumerate(members.items()):
        logged = [split for split in splits if any(f"{split}/{metric}" in row for one in records for row in one.rows)]
        for split in logged:
            label, colour = (split, splits.index(split)) if len(members) == 1 else (_escaped(name), index)
            faint = len(members) > 1 and split != logged[-1]
            style = {"name": label, "legendgroup": label, "opacity": 0.45 if faint else 1, "meta": {"colour": colour}}
            style["showlegend"] = len(logged) + len(members) > 2 and not faint
            data += _traces(records, f"{split}/{metric}", style, thick=split == "validation")
    return {"title": metric.replace("_", " "), "data": data, "layout": {}}


def _traces(records: Sequence[Record], name: str, style: Mapping[str, Any], *, thick: bool) -> list[dict[str, Any]]:
    """A run's curve, or the mean of several at the steps that all have reached with a band of one deviation."""
    curves = [dict(zip(*record.curve(name), strict=True)) for record in records]
    curves = [curve for curve in curves if curve]
    if not curves:
        return []
    steps = np.array(sorted(set.intersection(*map(set, curves))), float)
    values = np.array([[curve[step] for step in steps] for curve in curves])
    with np.errstate(all="ignore"):  # the largest numbers have no mean, and what is not finite is a gap
        mean = values.mean(axis=0)
        deviation = values.std(axis=0, ddof=1) if len(curves) > 1 else mean
    band = []
    if len(curves) > 1:
        hidden = dict(style) | {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        low, high = (_points(records[0], steps, mean + sign * deviation) for sign in (-1, 1))
        band = [hidden | low, hidden | high | {"fill": "tonexty"}]
    mode = "lines+markers" if len(steps) <= 40 else "lines"
    line = {"line": {"width": 2.2 if thick else 1.4}, "marker": {"size": 5}}
    return [*band, {"type": "scatter", "mode": mode, **line, **style, **_points(records[0], steps, mean)}]


def _points(record: Record, steps: np.ndarray, values: np.ndarray) -> dict[str, Any]:
    """The points to draw: x in steps, and for the page's other scales [examples, seconds] in `customdata`."""
    kept = kept_points(values)
    steps, values = steps[kept], values[kept]
    with np.errstate(all="ignore"):
        scales = steps * record.examples_per_step, record.seconds(steps)
    others = zip(*map(_rounded, scales), strict=True)
    return {"x": _rounded(steps), "y": _rounded(values), "customdata": list(others)}


def _rounded(values: np.ndarray) -> list[float | None]:
    """Six digits; None, a gap of the line, for what is not finite."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.tolist()]


SWEEP_COLUMNS = ("trial", "state", "seed", "value", "seconds", "folder", "reason")
"""Columns of a `sweep.csv` that are not parameters."""


def sweep_charts(trials: Sequence[Mapping[str, str]]) -> list[Chart]:
    """Parallel coordinates over all parameters, and the value over each parameter, from the rows of a `sweep.csv`.

    Only trials with a value count, and parameters that took more than one.
    """
    scored = [trial for trial in trials if _finite(trial.get("value"))]
    names = [name for name in (scored[0] if scored else {}) if name not in SWEEP_COLUMNS]
    axes = {name: _Axis([trial[name] or "" for trial in scored]) for name in names}
    axes = {name: axis for name, axis in axes.items() if len(set(axis.texts)) > 1}
    values = [float(trial["value"]) for trial in scored]
    labels = [_escaped(f"trial {trial.get('trial', '?')}") for trial in scored]
    if not axes:
        return []
    slices = [_slice(name, axis, values, labels) for name, axis in axes.items()]
    return [_parallel(axes | {"value": _Axis([trial["value"] for trial in scored])}, values, labels), *slices]


class _Axis:
    """One parameter of all trials: places on a line, in logarithms where positive values span a factor of 30."""

    def __init__(self, texts: Sequence[str]):
        self.texts = texts
        numbers = [number(text) for text in texts]
        self.numeric = all(map(_finite, texts))
        names = sorted(set(texts))
        self.values = np.array(numbers if self.numeric else [names.index(text) for text in texts], float)
        with np.errstate(all="ignore"):
            self.log = bool(self.numeric and self.values.min() > 0 and self.values.max() / self.values.min() >= 30)
            places = np.log(self.values) if self.log else self.values
            places = (places - places.min()) / max(float(np.ptp(places)), 1e-12)
        self.places = np.nan_to_num(places, posinf=1.0)  # the largest numbers have no difference


def _parallel(axes: Mapping[str, _Axis], values: Sequence[float], labels: Sequence[str]) -> Chart:
    """A line for each trial through its place on every axis, the value's last; drawn without WebGL."""
    lines = []
    shades = _Axis(list(map(str, values))).places
    for trial, label in enumerate(labels):
        hover = "<br>".join([label, *(_escaped(f"{name}: {axis.texts[trial][:100]}") for name, axis in axes.items())])
        lines.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": list(range(len(axes))),
                "y": [float(axis.places[trial]) for axis in axes.values()],
                "text": hover,
                "hoverinfo": "text",
                "showlegend": False,
                "meta": {"shade": float(shades[trial])},
            }
        )
    ends = []
    for place, axis in enumerate(axes.values()):
        for low_or_high, index in ((0, int(axis.places.argmin())), (1, int(axis.places.argmax()))):
            end = f"{axis.values[index]:.4g}" if axis.numeric else axis.texts[index][:12]
            text = {"text": _escaped(end), "showarrow": False, "yshift": (-14, 14)[low_or_high]}
            ends.append({"x": place, "y": low_or_high, **text})
    ticks = {"tickvals": list(range(len(axes))), "ticktext": list(map(_escaped, axes)), "showgrid": True}
    layout = {"xaxis": ticks, "yaxis": {"visible": False, "range": [-0.15, 1.15]}, "annotations": ends}
    return {"title": "parallel coordinates", "data": lines, "layout": layout | {"hovermode": "closest"}, "wide": True}


def _slice(name: str, axis: _Axis, values: Sequence[float], labels: Sequence[str]) -> Chart:
    data = {"type": "scatter", "mode": "markers", "y": values, "text": labels, "showlegend": False}
    data |= {"x": axis.values.tolist() if axis.numeric else list(map(_escaped, axis.texts)), "marker": {"size": 7}}
    kind = "log" if axis.log else "linear" if axis.numeric else "category"
    layout = {"xaxis": {"type": kind}, "hovermode": "closest"}
    return {"title": f"value over {name}", "data": [data | {"meta": {"colour": 0}}], "layout": layout}


def _finite(text: str | None) -> bool:
    return (value := number(text)) is not None and math.isfinite(value)


def _escaped(text: str) -> str:
    """Plotly reads some HTML in its texts."""
    return text.replace("&", "&amp;").replace("<", "&lt;")
