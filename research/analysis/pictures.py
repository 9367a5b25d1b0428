"""Pictures of runs: learning curves and attention heat maps, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def learning_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """One panel for each metric (`train/x` and `validation/x` together), from the rows of a `metrics.jsonl`."""
    names = sorted({name.split("/", 1)[1] for row in rows for name in row if "/" in name and name[:5] != "time/"})
    if not names:
        return
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.2 * lines), layout="constrained")
    for axes, name in zip(figure.subplots(lines, columns, squeeze=False).flat, names, strict=False):
        for split, style in (("train", "-"), ("validation", "o-")):
            key = f"{split}/{name}"
            points = [(row["step"], float(row[key])) for row in rows if key in row]
            if points:
                axes.plot(*zip(*points, strict=True), style, markersize=3, linewidth=1.2, label=split)
        axes.set(xlabel="step", title=name.replace("_", " "))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    for axes in figure.axes[len(names) :]:
        axes.remove()
    _save(figure, path)


def attention_heat_maps(
    weights: np.ndarray, keys: Sequence[str], queries: Sequence[str], title: str, path: Path
) -> None:
    """One panel a head: weights [heads, queries, keys] with a token beside each row and column."""
    heads = len(weights)
    columns = min(4, heads)
    lines = -(-heads // columns)
    side = 1.4 + 0.22 * max(len(keys), len(queries))
    figure = Figure(figsize=(side * columns, side * lines), layout="constrained")
    for head, axes in enumerate(figure.subplots(lines, columns, squeeze=False).flat):
        if head >= heads:
            axes.remove()
            continue
        image = axes.imshow(weights[head], cmap="viridis", vmin=0, vmax=1)
        axes.set_xticks(range(len(keys)), keys, rotation=90, fontsize=8)
        axes.set_yticks(range(len(queries)), queries, fontsize=8)
        axes.set_title(f"head {head + 1}", fontsize=9)
    figure.colorbar(image, ax=figure.axes, shrink=0.6, label="attention weight")
    figure.suptitle(title)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure).print_png(str(path))
