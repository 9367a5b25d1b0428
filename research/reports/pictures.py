"""Draws a run into its folder: curves, schedule, masks, positions, and what its attention or its features look at."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from research.analysis.attention import attention_weights, rollout, special_tokens
from research.analysis.pictures import (
    attention_heat_maps,
    attention_rows,
    image_heat_maps,
    learning_curves,
    mask_pictures,
    position_picture,
    save_png,
    schedule_picture,
    shortened,
)
from research.analysis.relevance import grad_cam
from research.errors import UserError
from research.files import own_folder, write_json
from research.layers.positions import sinusoidal_positions
from research.models.contract import FeatureMap, Patches
from research.runs.experiment import Experiment
from research.runs.predictor import Predictor
from research.tasks.task import PATCHES, Example, Task, View
from research.training.loggers import read_metrics

MAX_DRAWN = 128
"""Tokens on a side of a heat map."""
MOST = 5
"""Keys that are named of each row."""


class Asked(NamedTuple):
    """Whose attention is drawn: tokens by their numbers, in one layer by its path and in one head, or in all."""

    rows: Sequence[int]
    layer: str | None = None
    head: int | None = None


def draw(experiment: Experiment, item: str | None = None, *, data: bool = False) -> None:
    """Draws what applies to the experiment.

    item: a text or an image file; an example of the validation split unless given. data: reads the run's data wherever
    they lie; otherwise the schedule and that example are drawn only if no file is needed for them, since somebody
    else's config may name any file. Raises UserError for an item of which there is nothing to draw.
    """
    folder = experiment.folder
    learning_curves(read_metrics(folder / "metrics.jsonl"), folder / "learning_curves.png")
    examples: list[Example] = []
    if data or not experiment.source.paths():
        steps = np.unique(np.linspace(0, len(experiment.run.batches) - 1, 500).astype(int))
        rates = np.array([float(experiment.run.learning_rate(int(step))) for step in steps])
        schedule_picture(rates, steps, folder / "schedule.png")
        split = "validation" if "validation" in experiment.source.splits else "train"
        examples = experiment.task.shown(experiment.examples(split), 1)
    if item is not None:
        examples = [experiment.task.example(item)]
    if examples and not _draw_example(experiment, examples[0]) and item is not None:
        raise UserError("there is nothing to draw of this run's answers: leave the text or image out")


def save_pictures(task: Task, examples: Sequence[Example], answers: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Draws each answer over its image: `1.png`, `2.png` and so on. Raises UserError where answers are not places."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (example, answer) in enumerate(zip(examples, answers, strict=True), 1):
        if (picture := task.picture(example, answer)) is None:
            raise UserError("there is nothing to draw of this run's answers: leave --pictures out")
        save_png(picture, folder / f"{number}.png")


def _draw_example(experiment: Experiment, example: Example) -> bool:
    """Whether there was something to draw."""
    predictor, task = Predictor.of(experiment), experiment.task
    answer = predictor.answers([example])[0]
    if (picture := task.picture(example, answer)) is not None:
        save_png(picture, experiment.folder / "answer.png")
    view = task.view(example, answer)
    if view is None:
        return picture is not None
    if view.image is None:
        _draw_text(experiment, predictor.variables, view)
        _draw_masks_and_positions(experiment, example)
        return True
    return _draw_image(experiment, predictor.variables, view, view.image) or picture is not None


def draw_rows(experiment: Experiment, item: str, asked: Asked) -> str:
    """Draws what some tokens of a text of any length attend to, and says it: of each the keys with the most weight."""
    predictor, task = Predictor.of(experiment), experiment.task
    example = task.example(item)
    view = task.view(example, predictor.answers([example])[0])
    if view is None or view.image is not None:
        raise UserError("--rows is for models that read a text and have attention: leave it out")
    layers = None if asked.layer is None else [asked.layer]
    heads = None if asked.head is None else [asked.head]
    found = attention_weights(
        experiment.model, predictor.variables, *view.inputs, layers=layers, heads=heads, rows=asked.rows
    )
    lines = []
    for path, weights in found.items():
        queries, keys = (view.tokens[side] for side in view.sides(path))
        if any(row >= len(queries) for row in asked.rows):
            raise UserError(f"row {max(asked.rows)} is not there: the text has the tokens 0 to {len(queries) - 1}")
        weights = weights[0, :, :, : len(keys)]
        names = {row: f"{row} {queries[row]}" for row in asked.rows}
        file = own_folder(experiment.folder / "attention") / f"{path.replace('/', '_')}_rows.png"
        attention_rows(weights, list(names.values()), f"{path}: {shortened(view.title)}", file)
        for number, name in enumerate(names.values()):
            mean = weights[:, number].mean(axis=0)
            seen = (f"{key} {keys[key]} {mean[key]:.3f}" for key in np.argsort(-mean, kind="stable")[:MOST])
            lines.append(f"{path}, {name}: {', '.join(seen)}")
    return "\n".join(lines)


def _draw_text(experiment: Experiment, variables: Mapping[str, Any], view: View) -> None:
    folder, layers = experiment.folder, {}
    for path, weights in attention_weights(experiment.model, variables, *view.inputs, rows=slice(MAX_DRAWN)).items():
        sides = [view.tokens[side] for side in view.sides(path)]
        queries, keys = (list(tokens[:MAX_DRAWN]) for tokens in sides)
        heads = weights[0, :, : len(queries), : len(keys)]
        layers[path] = {"queries": queries, "keys": keys, "weights": np.round(heads, 4).tolist()}
        file = own_folder(folder / "attention") / f"{path.replace('/', '_')}.png"
        longest = max(map(len, sides))
        part = f" (the first {MAX_DRAWN} of {longest:,} tokens)" if longest > MAX_DRAWN else ""
        attention_heat_maps(heads, keys, queries, f"{path}: {shortened(view.title)}{part}", file)
    if layers:
        write_json(folder / "attention.json", {"title": view.title, "layers": layers})


def _draw_image(experiment: Experiment, variables: Mapping[str, Any], view: View, image: np.ndarray) -> bool:
    model, folder = experiment.model, experiment.folder
    if view.target is not None and isinstance(model, FeatureMap):
        relevance = np.asarray(grad_cam(experiment.model, variables, view.inputs[0], jnp.array([view.target])))[0]
        image_heat_maps(image, [("relevance", relevance)], view.title, folder / "relevance.png")
        return True
    if not isinstance(model, Patches):
        return False
    weights = attention_weights(experiment.model, variables, *view.inputs)
    _draw_patches(model, weights, image, view, folder / "attention")
    return True


def _draw_patches(model: Patches, weights: dict[str, np.ndarray], image: np.ndarray, view: View, folder: Path) -> None:
    grid = -(-image.shape[0] // model.patch_size), -(-image.shape[1] // model.patch_size)
    special = special_tokens(model)
    own_folder(folder)
    within: dict[str, np.ndarray] = {}  # from patches to patches
    for path, layer in weights.items():
        rows, columns = view.sides(path)
        title, file = f"{path}: {shortened(view.title)}", folder / f"{path.replace('/', '_')}.png"
        queries, keys = view.tokens.get(rows, ()), view.tokens.get(columns, ())
        if rows == columns == PATCHES and layer.shape[-1] >= grid[0] * grid[1]:
            heads = [(f"head {head + 1}", over_image(heat, grid, special)) for head, heat in enumerate(layer[0])]
            image_heat_maps(image, heads, title, file)
            within |= {path: layer} if layer.shape[-2] == layer.shape[-1] else {}
        elif queries and columns == PATCHES:
            means = layer[0].mean(axis=0)
            maps = [(name, means[place].reshape(grid)) for place, name in enumerate(queries) if name]
            image_heat_maps(image, maps, title, file)
        elif queries and keys:
            attention_heat_maps(layer[0, :, : len(queries), : len(keys)], keys, queries, title, file)
    if within:
        maps = [("all layers", over_image(rollout(within)[0], grid, special))]
        image_heat_maps(image, maps, f"attention rollout: {shortened(view.title)}", folder / "rollout.png")


def over_image(weights: np.ndarray, grid: tuple[int, int], special: int) -> np.ndarray:
    """What the class token, or all patches on average where there is none, attend to, [rows, columns] of patches.

    weights: [queries, keys] of tokens: `special` ones, of which the first is the class token, then the patches, then
    registers if there are any.
    """
    patches = slice(special, special + grid[0] * grid[1])
    seen = weights[0] if special else weights[patches].mean(axis=0)
    return seen[patches].reshape(grid)


def _draw_masks_and_positions(experiment: Experiment, example: Example) -> None:
    batch = experiment.task.questions([example]).first()
    if masks := experiment.task.masks(batch):
        mask_pictures(masks, experiment.folder / "masks.png")
    if getattr(experiment.model, "positions", None) == "sinusoidal":
        longest = max((mask.shape[-1] for mask in masks.values()), default=0)
        table = np.asarray(sinusoidal_positions(max(longest, 50), experiment.model.width))
        position_picture(table, experiment.folder / "positions.png")
