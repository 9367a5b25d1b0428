"""Pictures of what models cost, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.analysis.pictures import save_figure


def cost_picture(rows: Sequence[Mapping[str, Any]], batch_sizes: Sequence[int], path: Path) -> None:
    """Bars for each model, one panel for its multiply-adds and one for its latency at each batch size.

    rows: mappings with `model`, `multiply_adds` and, for each batch size b, `milliseconds_b`.
    """
    panels = {"multiply-adds of an image, G": [row["multiply_adds"] / 1e9 for row in rows]}
    panels |= {
        f"latency of {b} image{'s' * (b > 1)}, ms": [row[f"milliseconds_{b}"] for row in rows] for b in batch_sizes
    }
    figure = Figure(figsize=(1.8 + 3 * len(panels), 1.1 + 0.36 * len(rows)), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for number, (axes, (title, values)) in enumerate(zip(all_axes, panels.items(), strict=True)):
        bars = axes.barh([row["model"] for row in rows], values, color="tab:gray" if number == 0 else f"C{number - 1}")
        axes.bar_label(bars, fmt=lambda value: f"{float(f'{value:.3g}'):g}", padding=3, fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.margins(x=0.22)
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[0].invert_yaxis()
    save_figure(figure, path)


def growth_picture(
    tokens: Sequence[int], curves: Mapping[str, Mapping[str, Any]], panels: Mapping[str, str], path: Path
) -> None:
    """Curves over the number of tokens on logarithmic axes, with the fitted power of each as a dashed line.

    curves: by name, mappings with a list of values, one for each number of tokens, and their exponent as
    `<quantity>_growth`, for each quantity. panels: {quantity: the label of its axis}.
    """
    figure = Figure(figsize=(4.9 * len(panels), 4), layout="constrained")
    for axes, (quantity, label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, curve in curves.items():
            _power_law(axes, np.array(tokens), np.array(curve[quantity]), curve[f"{quantity}_growth"], name)
        axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel=label)
        axes.set_xticks(tokens, [str(number) for number in tokens])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=9)
    save_figure(figure, path)


def _power_law(axes: Axes, sizes: np.ndarray, values: np.ndarray, exponent: float, name: str) -> None:
    (line,) = axes.plot(sizes, values, "o", markersize=5, label=f"{name}: tokens$^{{{exponent:.2f}}}$")
    factor = np.exp(np.mean(np.log(values) - exponent * np.log(sizes)))
    axes.plot(sizes, factor * sizes.astype(float) ** exponent, "--", linewidth=1.2, color=line.get_color())
