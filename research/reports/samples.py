"""What a trained model does with a few examples, recorded for its report: `report.json` in the run's folder."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from research.analysis.attention import attention_weights, special_tokens
from research.errors import UserError
from research.files import write_json
from research.models.contract import Patches
from research.runs.experiment import Experiment
from research.runs.predictor import Predictor
from research.tasks.task import PATCHES, Example, Task, View

SAMPLES, LOOKS = 18, 3
"""Examples shown, and how many of them are shown with the model's attention."""

MAX_TOKENS = 80
ATTENTION_BYTES = 1_500_000


def record(experiment: Experiment, memory: Mapping[str, int]) -> None:
    """Writes `report.json`: answers to examples of the last split, and the attention of some.

    `memory` are the run's peaks in bytes by name, {} where they are not known.
    """
    task, predictor = experiment.task, Predictor.of(experiment)
    split = next((name for name in reversed(experiment.source.splits) if name != "train"), "train")
    chosen = _fitting(task, task.shown(experiment.examples(split), SAMPLES))
    answers = predictor.answers(chosen)
    pairs = list(zip(chosen, answers, strict=True))
    samples = [_stored(task.sample(example, answer)) for example, answer in pairs]
    longest = sorted(pairs, key=lambda pair: -len(pair[1].get("text", "").split()))  # long answers tell more
    views = [task.view(example, answer) for example, answer in longest[:LOOKS]]
    looks = [look(experiment.model, predictor.variables, view) for view in views if view is not None]
    content = {"samples": samples, "attention": within(looks, ATTENTION_BYTES), "memory": memory}
    write_json(experiment.folder / "report.json", {"split": split, "step": predictor.step, **content})


def _fitting(task: Task, examples: Sequence[Example]) -> list[Example]:
    """The examples that the model can take."""
    fitting = []
    for example in examples:
        try:
            task.questions([example])
        except UserError:
            continue
        fitting.append(example)
    return fitting


def _stored(sample: Mapping[str, Any]) -> dict[str, Any]:
    return {name: png(value) if name == "image" else value for name, value in sample.items()}


def look(model: Any, variables: Mapping[str, Any], view: View) -> dict[str, Any]:
    """The attention of a model that answers one example, as the explorer reads it."""
    is_text = view.image is None
    layered = attention_weights(model, variables, *view.inputs, rows=slice(MAX_TOKENS) if is_text else None)
    content, count = {"kind": "text", "title": view.title}, 0
    if view.image is not None:
        size = model.patch_size if isinstance(model, Patches) else None
        grid = [-(-side // size) for side in view.image.shape[:2]] if size else [0, 0]
        count = grid[0] * grid[1]
        content |= {"kind": "image", "image": png(view.image), "grid": grid, "special": special_tokens(model)}
    places = {
        name: [place for place, token in enumerate(tokens) if token or is_text][:MAX_TOKENS]
        for name, tokens in view.tokens.items()
    }
    layers = []
    for path in sorted(layered, key=lambda path: path.startswith("decoder")):
        sides = view.sides(path)
        if (weights := _between(sides, layered[path], places, count)) is not None:
            layers.append(layer(path, weights, *sides))
    tokens = {name: [view.tokens[name][place] for place in kept] for name, kept in places.items()}
    return content | {"tokens": tokens, "layers": layers}


def _between(
    sides: tuple[str, str], weights: np.ndarray, places: Mapping[str, Sequence[int]], patches: int
) -> np.ndarray | None:
    """A layer's weights [heads, queries, keys] between its two sides, without the tokens that are left out.

    places: the tokens that are shown, by name. None of a layer that is not: between other things, or within windows.
    """
    if len(weights) > 1:
        return None
    found = weights[0]
    for axis, side in enumerate(sides, 1):
        if side == PATCHES:
            if not patches or found.shape[axis] < patches:
                return None
        elif not places.get(side):
            return None
        else:
            found = found.take(places[side], axis)
    return found


def layer(path: str, weights: np.ndarray, rows: str, columns: str) -> dict[str, Any]:
    """A layer's weights [heads, queries, keys] for the explorer: `(byte / 255) ** 2`, exact to 0.4 % of attention.

    `rows` and `columns` name the lists of tokens that its queries and keys are.
    """
    data = np.round(255 * np.sqrt(np.clip(weights, 0, 1))).astype(np.uint8)
    encoded = base64.b64encode(data.tobytes()).decode()
    return {"path": path, "shape": list(weights.shape), "rows": rows, "columns": columns, "weights": encoded}


def within(looks: Sequence[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """As many of the examples as have no more than `limit` weights together: at least one, if need be with evenly
    spaced layers only; examples without attention are left out."""
    kept: list[dict[str, Any]] = []
    left = limit
    for look in looks:
        sizes = [int(np.prod(one["shape"])) for one in look["layers"]]
        if not kept and sum(sizes) > limit:
            count = max(1, limit * len(sizes) // sum(sizes))
            picked = np.unique(np.linspace(0, len(sizes) - 1, count).round().astype(int))
            look = look | {"layers": [look["layers"][index] for index in picked]}
            sizes = [sizes[index] for index in picked]
        if look["layers"] and (sum(sizes) <= left or not kept):
            kept.append(look)
            left -= sum(sizes)
    return kept


def png(pixels: np.ndarray) -> str:
    """A data URI of an image uint8 [height, width, 1 or 3], at most 224 pixels high and 672 wide."""
    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((672, 224))
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
