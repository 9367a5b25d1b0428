"""Pictures of runs: learning curves and attention heat maps, as PNG files."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from research.analysis.fonts import give_fonts
from research.files import replacing

LONGEST_TITLE = 300
DRAWN = 1e300
"""The largest number in a picture: matplotlib takes differences."""


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
            points = [(row["step"], float(row[key])) for row in rows if key in row and not abs(float(row[key])) > DRAWN]
            if points:
                axes.plot(*zip(*points, strict=True), style, markersize=3, linewidth=1.2, label=split)
        axes.set(xlabel="step", title=_plain(name.replace("_", " ")))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(frameon=False)
    for axes in figure.axes[len(names) :]:
        axes.remove()
    save_figure(figure, path)


def attention_heat_maps(
    weights: np.ndarray, keys: Sequence[str], queries: Sequence[str], title: str, path: Path
) -> None:
    """One panel a head: weights [heads, queries, keys] with a token beside each row and column."""
    heads = len(weights)
    columns = min(4, heads)
    lines = -(-heads // columns)
    width, height = 1.2 + 0.24 * len(keys), 1.4 + 0.24 * len(queries)
    figure = Figure(figsize=(max(6, width * columns), height * lines + 0.5), layout="constrained")
    for head, axes in enumerate(figure.subplots(lines, columns, squeeze=False).flat):
        if head >= heads:
            axes.remove()
            continue
        axes.imshow(weights[head], cmap="viridis", vmin=0, vmax=1)
        axes.set_xticks(range(len(keys)), list(map(_visible, keys)), rotation=90, fontsize=8)
        axes.set_yticks(range(len(queries)), list(map(_visible, queries)), fontsize=8)
        axes.set_title(f"head {head + 1}", fontsize=9)
    figure.colorbar(figure.axes[0].images[0], ax=figure.axes, shrink=0.6, label="attention weight")
    figure.suptitle(_plain(title), fontsize=10, wrap=True)
    save_figure(figure, path)


def attention_rows(weights: np.ndarray, queries: Sequence[str], title: str, path: Path) -> None:
    """One panel a query: weights [heads, queries, keys] as a line of colours for each head, over the keys' numbers."""
    heads = len(weights)
    figure = Figure(figsize=(11, 0.6 + len(queries) * (0.7 + 0.14 * heads)), layout="constrained")
    for number, axes in enumerate(figure.subplots(len(queries), 1, squeeze=False).flat):
        image = axes.imshow(
            np.sqrt(weights[:, number]), cmap="viridis", aspect="auto", vmin=0, vmax=1, interpolation="nearest"
        )
        axes.set_title(_visible(queries[number]), fontsize=9, loc="left")
        axes.set_yticks([] if heads > 1 else [0], [] if heads > 1 else [""])
        axes.set_ylabel("heads" if heads > 1 else "", fontsize=8)
    axes.set_xlabel("number of the token that is attended to")
    bar = figure.colorbar(image, ax=figure.axes, label="attention weight")
    shown = (0, 0.01, 0.1, 0.25, 0.5, 1)
    bar.set_ticks([value**0.5 for value in shown], labels=list(map(str, shown)))
    figure.suptitle(_plain(title), fontsize=10, wrap=True)
    save_figure(figure, path)


def image_heat_maps(image: np.ndarray, maps: Sequence[tuple[str, np.ndarray]], title: str, path: Path) -> None:
    """The image uint8 [height, width, channels], and again under each named map [rows, columns], bright where it is
    high."""
    columns = min(5, len(maps) + 1)
    lines = -(-(len(maps) + 1) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.4 * lines + 0.4), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    height, width = image.shape[:2]
    shown = {"cmap": "gray", "vmin": 0, "vmax": 255} if image.shape[-1] == 1 else {}
    for axes, (name, heat) in zip(panels, [("image", None), *maps], strict=False):
        axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, extent=(0, width, height, 0), **shown)
        if heat is not None:
            axes.imshow(heat, cmap="inferno", alpha=0.65, extent=(0, width, height, 0), interpolation="bilinear")
        axes.set_title(name, fontsize=8)
    for axes in panels:
        axes.set_axis_off()
    figure.suptitle(_plain(title), fontsize=10, wrap=True)
    save_figure(figure, path)


def mask_pictures(masks: Mapping[str, np.ndarray], path: Path) -> None:
    """One panel a mask [queries, keys]: dark where a query may attend to a key."""
    figure = Figure(figsize=(3.2 * len(masks), 3.4), layout="constrained")
    for axes, (name, mask) in zip(figure.subplots(1, len(masks), squeeze=False).flat, masks.items(), strict=True):
        axes.imshow(mask, cmap="Blues", vmin=0, vmax=1.3)
        axes.set(title=name, xlabel="key", ylabel="query")
    save_figure(figure, path)


def position_picture(table: np.ndarray, path: Path) -> None:
    """A table of position encodings [positions, width], and how alike the positions are to each other."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    limit = np.abs(table).max()
    image = left.imshow(table, aspect="auto", cmap="RdBu", vmin=-limit, vmax=limit)
    left.set(xlabel="dimension", ylabel="position", title="position encodings")
    figure.colorbar(image, ax=left)
    norms = np.linalg.norm(table, axis=1)
    image = right.imshow(table @ table.T / np.maximum(np.outer(norms, norms), 1e-9), cmap="viridis")
    right.set(xlabel="position", ylabel="position", title="cosine similarity")
    figure.colorbar(image, ax=right)
    save_figure(figure, path)


def schedule_picture(rates: np.ndarray, steps: np.ndarray, path: Path) -> None:
    """The learning rate of each step."""
    figure = Figure(figsize=(5.5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, rates)
    axes.set(xlabel="step", ylabel="learning rate")
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def shortened(title: str) -> str:
    """A title of at most a few lines."""
    return title if len(title) <= LONGEST_TITLE else f"{title[:LONGEST_TITLE]} ..."


def _visible(token: str) -> str:
    """A token as a label: blanks and letters without a picture are spelt out."""
    return _plain(token if token.isprintable() and token.strip() else repr(token)[1:-1] or "(no text)")


def _plain(text: str) -> str:
    """A text of the data, in which matplotlib shall see no formula."""
    return text.replace("$", r"\$")


def save_figure(figure: Figure, path: Path, dpi: int = 100) -> None:
    """Writes a PNG file in place of what has its name: nothing is written through a link that lies there."""
    give_fonts(figure)
    with replacing(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # said already
        figure.savefig(file, format="png", dpi=dpi)


def save_png(pixels: np.ndarray, path: Path) -> None:
    """The same for an image, uint8 [height, width, 3]."""
    with replacing(path) as file:
        Image.fromarray(pixels).save(file, "PNG")
