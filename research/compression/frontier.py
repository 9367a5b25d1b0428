"""What candidates are worth and what they cost, which of them meet the goals, and the table and picture of it."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from research.analysis.pictures import save_figure
from research.errors import UserError

ORIGINAL = "original"


@dataclasses.dataclass(frozen=True)
class Measured:
    """A model's figures.

    quality: the metric. points: how much of it is lost, see `points_lost`. seconds: the median of an answer's, by the
    number of inputs. size: bytes of the weights as stored. memory: these, and what the program for one input needs.
    """

    name: str
    quality: float
    points: float
    parameters: int
    size: int
    memory: int
    seconds: Mapping[int, float]


@dataclasses.dataclass(frozen=True)
class Goals:
    """latency, size: the largest fraction of the original's, None for any. loss: points of the metric lost at most."""

    latency: float | None = None
    size: float | None = None
    loss: float = 1.0


def fraction(text: str, option: str) -> float:
    """0.5 of "0.5x". Raises UserError for another text, and for what is not more than 0."""
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)x", text)
    if not found or float(found[1]) <= 0:
        raise UserError(f"{option}={text} is not a fraction of the original's: write it as 0.5x")
    return float(found[1])


def points_lost(quality: float, original: float, *, lower: bool) -> float:
    """Points of a metric that are lost: per cent points, of fractions from 0 to 1 and of scores up to 100 alike.

    lower: less is better, as of a loss or a perplexity, of which a point is a hundredth of the original's value.
    """
    if lower:
        return 100 * (quality - original) / abs(original) if original else 100 * quality
    return (original - quality) * (100 if abs(original) <= 1 else 1)


def chosen(rows: Sequence[Measured], goals: Goals) -> tuple[Measured | None, str]:
    """The candidate that the goals ask for, or None, and the sentence that says which, or what came nearest.

    rows: the original first. Of those that meet all goals it is the fastest where a latency is asked for, else the
    smallest.
    """
    original, *candidates = rows
    asked = {"latency": goals.latency, "size": goals.size}
    order = "latency" if goals.latency is not None else "size"

    def misses(row: Measured) -> float:
        """By how much a candidate misses the costs that are asked for, 0 for none."""
        found = relative(row, original)
        return max((found[name] / limit - 1 for name, limit in asked.items() if limit is not None), default=0.0)

    good = [row for row in candidates if row.points <= goals.loss]
    meeting = [row for row in good if misses(row) <= 0]
    if meeting:
        best = min(meeting, key=lambda row: relative(row, original)[order])
        return (
            best,
            f"the {'fastest' if order == 'latency' else 'smallest'} that meets the goals: {said(best, original)}",
        )
    nearest = min(good, key=misses) if good else min(candidates, key=lambda row: row.points)
    limits = [f"{name} {limit:g}x" for name, limit in asked.items() if limit is not None]
    wanted = " and ".join([*limits, f"at most {goals.loss:g} points lost"])
    return None, f"no candidate has {wanted}; the best found is {said(nearest, original)}"


def relative(row: Measured, original: Measured) -> dict[str, float]:
    """Latency of one input and size, as fractions of the original's."""
    return {"latency": row.seconds[1] / original.seconds[1], "size": row.size / original.size}


def said(row: Measured, original: Measured) -> str:
    """A candidate in a few words."""
    found = relative(row, original)
    lost = f"{row.points:.2f} points lost" if row.points > 0 else "no points lost"
    return f"{row.name}, latency {found['latency']:.2f}x, size {found['size']:.2f}x, {lost} ({row.quality:.4f})"


def on_frontier(row: Measured, rows: Sequence[Measured]) -> bool:
    """Whether no other model is at least as good, as fast and as small, and better in one of these."""
    own = (row.points, row.seconds[1], row.size)
    others = [(other.points, other.seconds[1], other.size) for other in rows if other is not row]
    return not any(other != own and all(a <= b for a, b in zip(other, own, strict=True)) for other in others)


def table(rows: Sequence[Measured], metric: str) -> str:
    """The rows in Markdown, the original first."""
    original = rows[0]
    batches = list(original.seconds)
    titles = ["model", metric, "points lost", "parameters, M"]
    titles += [f"ms, batch {batch}" for batch in batches] + ["latency", "weights, MB", "size", "memory, MB", "frontier"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for row in rows:
        found = relative(row, original)
        cells = [row.name, f"{row.quality:.4f}", f"{row.points:+.2f}", f"{row.parameters / 1e6:.3f}"]
        cells += [f"{1000 * row.seconds[batch]:.2f}" for batch in batches]
        cells += [f"{found['latency']:.2f}x", f"{row.size / 1e6:.3f}", f"{found['size']:.2f}x"]
        cells += [f"{row.memory / 1e6:.2f}", "yes" if on_frontier(row, rows) else ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def report(rows: Sequence[Measured], metric: str) -> dict[str, Any]:
    """The rows as JSON: `frontier.json`."""
    original = rows[0]
    models = [
        {
            **{name: getattr(row, name) for name in ("name", "quality", "parameters", "size", "memory")},
            "points_lost": row.points,
            "milliseconds": {str(batch): 1000 * seconds for batch, seconds in row.seconds.items()},
            "relative": relative(row, original),
            "frontier": on_frontier(row, rows),
        }
        for row in rows
    ]
    return {"metric": metric, "models": models}


def picture(rows: Sequence[Measured], metric: str, path: Path) -> None:
    """The metric over latency and over size, both relative to the original, which is marked."""
    original = rows[0]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes_of = dict(zip(("latency", "size"), figure.subplots(1, 2, sharey=True), strict=True))
    for name, axes in axes_of.items():
        for row in rows:
            x, first = relative(row, original)[name], row is original
            best = on_frontier(row, rows)
            colour = "black" if first else "tab:blue" if best else "tab:gray"
            axes.plot(x, row.quality, "*" if first else "o", color=colour, markersize=12 if first else 6)
            axes.annotate(row.name, (x, row.quality), xytext=(5, 4), textcoords="offset points", fontsize=8)
        axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
        axes.set(xlabel=f"{name}, times the original's", ylabel=metric if name == "latency" else "")
        axes.set_xlim(left=0)
        axes.margins(x=0.15)
        axes.grid(alpha=0.3)
    save_figure(figure, path)
