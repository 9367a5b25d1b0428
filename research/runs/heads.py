"""What the attention heads of a trained model are worth: a score of the model without one of them, and without many."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from research.analysis.heads import Layer, attention_layers, without_head
from research.analysis.importance import gated
from research.analysis.pictures import save_figure
from research.errors import UserError
from research.files import write_json, write_text
from research.runs.experiment import Experiment
from research.runs.importance import gate_importance
from research.training.checkpoints import Checkpoints

RANDOM_ORDERS, POINTS = 3, 8
"""Orders that heads leave in beside that of their importance, and the steps in which they leave."""


def ablate_heads(experiment: Experiment, checkpoints: Checkpoints, split: str, metric: str) -> Mapping[str, Any]:
    """Measures a split once with all heads and once without each, as Michel et al. 2019 (section 3.2) do.

    Then without more and more of them, the least important first or in a random order (section 4, figure 3), unless the
    loss has no gradient of one example. Writes `heads.json`, the table `heads.md` and the picture `heads.png` into the
    run's folder. Returns {"metric": "<split>/<metric>", "whole": its value, "without": {layer: [its value without each
    head]}, "removed": {order: [[heads removed, its value], ...]}}. Raises UserError for a metric that is not measured,
    and for a model without attention heads.
    """
    variables, step = experiment.variables(checkpoints)
    layers = attention_layers(variables["params"])
    if not layers:
        raise UserError(f"model {experiment.config.model.name} has no attention heads: leave --heads out")
    evaluator = experiment.evaluator
    part = evaluator.split(experiment.examples(split))
    sums = evaluator.metrics(variables, part.rows)
    scored = metric not in sums

    def measured(variables: Mapping[str, Any]) -> dict[str, float]:
        return evaluator.scores(variables, part) if scored else evaluator.metrics(variables, part.rows)

    whole = measured(variables) if scored else sums
    if metric not in whole:
        raise UserError(f"--heads={metric} is not measured: use one of {', '.join({**sums, **whole})}")
    without = {
        path: [measured(without_head(variables, layer, head))[metric] for head in range(layer.num_heads)]
        for path, layer in layers.items()
    }
    found: dict[str, Any] = {"metric": f"{split}/{metric}", "step": step, "whole": whole[metric], "without": without}
    if not experiment.task.compares:
        found["removed"] = _removed(experiment, variables, layers, lambda given: measured(given)[metric])
        curves_picture(found["removed"], found["metric"], experiment.folder / "heads.png")
    write_json(experiment.folder / "heads.json", found)
    write_text(experiment.folder / "heads.md", table(found))
    return found


def _removed(
    experiment: Experiment, variables: Mapping[str, Any], layers: Mapping[str, Layer], measure: Callable[[Any], float]
) -> dict[str, list[list[float]]]:
    """The metric over the number of heads removed, in the order of their importance and in random ones.

    Importance is divided by its norm over a layer's heads, as the paper does. Masks serve here: nothing gets faster.
    """
    worth = gate_importance(experiment, variables)
    heads = [(layer, head) for layer in layers.values() for head in range(layer.num_heads)]

    def normed(layer: Layer, head: int) -> float:
        values = worth[layer.kernel] if layer.place is None else worth[layer.kernel][layer.place]
        return float(values[head] / max(np.linalg.norm(values), 1e-30))

    orders = {"importance": sorted(heads, key=lambda each: normed(*each))}
    for seed in range(RANDOM_ORDERS):
        orders[f"random {seed}"] = [heads[place] for place in np.random.default_rng(seed).permutation(len(heads))]
    counts = sorted({round(part * len(heads) / POINTS) for part in range(POINTS + 1)})
    silenced = jax.jit(gated)
    kernels = {layer.kernel for layer in layers.values()}
    curves: dict[str, list[list[float]]] = {}
    for name, order in orders.items():
        curves[name] = []
        for count in counts:
            gates = {kernel: np.ones_like(worth[kernel], np.float32) for kernel in kernels}
            for layer, head in order[:count]:
                gates[layer.kernel][head if layer.place is None else (layer.place, head)] = 0
            params = silenced(variables["params"], gates)
            curves[name].append([count, measure({**variables, "params": params})])
    return curves


def curves_picture(curves: Mapping[str, Sequence[Sequence[float]]], metric: str, path: Path) -> None:
    """The metric over the number of heads removed, a line for each order."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        random = name.startswith("random")
        colour, width = ("tab:gray", 1) if random else ("tab:blue", 2)
        axes.plot(*zip(*points, strict=True), "o-", markersize=3, label=name, color=colour, linewidth=width)
    axes.set(xlabel="attention heads removed", ylabel=metric)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    save_figure(figure, path)


def table(found: Mapping[str, Any]) -> str:
    """What changes without each head, as a Markdown table with a row for each layer."""
    most = max(map(len, found["without"].values()))
    lines = [
        f"{found['metric']} is {found['whole']:.4f} with all heads; without one of them it changes by",
        "",
        "| layer | " + " | ".join(f"head {number}" for number in range(1, most + 1)) + " |",
        "|" + " --- |" * (most + 1),
    ]
    for layer, values in found["without"].items():
        cells = [f"{value - found['whole']:+.4f}" for value in values]
        lines.append(f"| {layer} | " + " | ".join([*cells, *[""] * (most - len(cells))]) + " |")
    return "\n".join(lines) + "\n"
