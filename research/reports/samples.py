"""What a trained model does with a few examples, recorded for its report: `report.json` in the run's folder."""

import base64
import io
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from research.analysis.attention import attention_weights, special_tokens
from research.errors import UserError
from research.files import write_json
from research.models.contract import Patches
from research.runs.experiment import Experiment
from research.runs.predictor import Predictor
from research.tasks.task import Example, Task, View

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


def peak_memory() -> dict[str, int]:
    """The most bytes that this process, and its first device where that keeps count, have held so far."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    return peaks | ({"device": statistics["peak_bytes_in_use"]} if "peak_bytes_in_use" in statistics else {})


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
    layered = attention_weights(model, variables, *view.inputs, rows=slice(MAX_TOKENS) if view.image is None else None)
    if view.image is not None:
        return _look_at_image(model, layered, view.title, view.image)
    tokens = {name: list(ids)[:MAX_TOKENS] for name, ids in view.tokens.items()}
    layers = []
    for path in sorted(layered, key=lambda path: path.startswith("decoder")):
        rows, columns = view.sides(path)
        layers.append(layer(path, layered[path][0, :, : len(tokens[rows]), : len(tokens[columns])], rows, columns))
    return {"kind": "text", "title": view.title, "tokens": tokens, "layers": layers}


def _look_at_image(model: Any, layered: Mapping[str, np.ndarray], title: str, image: np.ndarray) -> dict[str, Any]:
    size = model.patch_size if isinstance(model, Patches) else None
    grid = [-(-side // size) for side in image.shape[:2]] if size else [0, 0]
    layers = [
        layer(path, weights[0], "patches", "patches")
        for path, weights in layered.items()
        if size and len(weights) == 1 and min(weights.shape[2:]) >= grid[0] * grid[1]  # no windows
    ]
    look = {"kind": "image", "title": title, "image": png(image), "grid": grid, "layers": layers}
    return look | {"special": special_tokens(model)}


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
