"""Parameters, cost, latency and memory of several models on one machine, measured in turns, as tables and pictures."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from research.analysis import cost
from research.analysis.comparison import cost_picture, growth_picture
from research.analysis.latency import growth, measure
from research.config import build, choose, load, suggestion
from research.errors import UserError
from research.files import write_json, write_text
from research.layers.convolution import fold
from research.layers.dot_product import dot_product_attention
from research.layers.transformer import TransformerLayer
from research.models import resnet
from research.ranges import Classes, Count, Pixels, Size
from research.runs.folder import claim, write_manifest
from research.runs.tables import MODELS

WIDTH, NUM_HEADS = 256, 4


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What a config of this command says: models by label (sections as `model` elsewhere, and their published
    `accuracy` in per cent), the one that the others' latency is divided by, images of `size` x `size` pixels, and the
    sides of square grids of tokens over which single layers are measured."""

    models: Mapping[str, Any]
    reference: str
    size: Pixels
    num_classes: Classes
    batch_sizes: tuple[Count, ...]
    rounds: Count
    sides: tuple[Size, ...]

    def __post_init__(self):
        if self.reference not in self.models:
            raise UserError(f"reference is {self.reference!r}: {suggestion(self.reference, self.models, 'models')}")
        if 1 not in self.batch_sizes:
            raise UserError(
                f"batch_sizes {list(self.batch_sizes)} lack 1, the size that models are compared at: add it"
            )
        if len(self.sides) < 2:
            raise UserError(f"sides has {len(self.sides)} value(s): give 2 sides or more")


def inference(model: Any, variables: Mapping[str, Any]) -> tuple[Any, Any]:
    """The model as it is used, batch normalisation folded where it has one, and its variables."""
    if "batch_stats" not in variables:
        return model, variables
    return model.clone(folded=True), fold(variables)


def compare(config: Comparison) -> list[dict[str, Any]]:
    """One row for each model, by rising multiply-adds.

    Milliseconds are medians of a forward pass, `relative_1` is the latency of one image over that of the model that the
    config calls `reference`, memory is what the compiler plans.
    """
    rows: dict[str, dict[str, Any]] = {}
    calls = {}
    for label, section in config.models.items():
        fields = {key: value for key, value in section.items() if key != "accuracy"}
        model = choose(MODELS, fields, f"models.{label}", num_classes=config.num_classes)
        variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, config.size, config.size, 3)))
        parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        model, variables = inference(model, variables)
        image = jax.ShapeDtypeStruct((1, config.size, config.size, 3), jnp.float32)
        rows[label] = {
            "model": label,
            "parameters": parameters,
            "multiply_adds": cost.flops(model.apply, variables, image) // 2,
        }
        for batch in config.batch_sizes:
            images = jnp.zeros((batch, config.size, config.size, 3))
            calls[label, batch], memory = _compiled(model.apply, variables, images)
            rows[label][f"memory_{batch}"] = memory.total
    for (label, batch), values in measure(calls, config.rounds).items():
        rows[label][f"milliseconds_{batch}"] = 1000 * float(np.median(values))
        rows[label][f"images_per_second_{batch}"] = batch / float(np.median(values))
    for row in rows.values():
        row["relative_1"] = row["milliseconds_1"] / rows[config.reference]["milliseconds_1"]
    return sorted(rows.values(), key=lambda row: row["multiply_adds"])


def _compiled(function: Callable, *arguments: Any) -> tuple[Callable[[], Any], cost.Memory]:
    compiled = jax.jit(function).lower(*arguments).compile()
    return lambda: compiled(*arguments), cost.memory(compiled)


def grow(sides: Sequence[int], rounds: int) -> dict[str, dict[str, Any]]:
    """How each kind of layer grows over square grids with these numbers of tokens a side (batch 1, width 256, 4 heads).

    For each kind `milliseconds` and `megabytes` (the result and all that is held on the way to it), lists with a value
    for each grid, and the exponents with which they grow with the number of tokens.
    """
    images = {side: jnp.ones((1, side, side, WIDTH)) for side in sides}
    kinds, calls, megabytes = _kinds(), {}, {}
    for name, (function, variables) in kinds.items():
        for side, image in images.items():
            calls[name, side], memory = _compiled(function, variables, image)
            megabytes[name, side] = (memory.outputs + memory.temporaries) / 1e6
    seconds = measure(calls, rounds)
    tokens = np.square(list(sides))
    curves: dict[str, dict[str, Any]] = {}
    for name in kinds:
        values = {
            "milliseconds": [1000 * float(np.median(seconds[name, side])) for side in sides],
            "megabytes": [megabytes[name, side] for side in sides],
        }
        exponents = {f"{quantity}_growth": growth(tokens, np.array(value)) for quantity, value in values.items()}
        curves[name] = values | exponents
    return curves


def _kinds() -> dict[str, tuple[Callable[..., Any], Any]]:
    """{name: (a function of variables and a grid of tokens, the variables)}."""
    layer = TransformerLayer(NUM_HEADS, 4 * WIDTH, activation="gelu", norm="pre")
    block = resnet.Block(WIDTH, stride=1, bottleneck=False, folded=True)

    def attention(_, x):
        heads = x.reshape(1, -1, NUM_HEADS, WIDTH // NUM_HEADS)
        return dot_product_attention(heads, heads, heads)

    image = jnp.zeros((1, 2, 2, WIDTH))
    return {
        "attention": (attention, {}),
        "ViT block": (
            lambda variables, x: layer.apply(variables, x.reshape(1, -1, WIDTH)),
            layer.init(jax.random.key(0), image.reshape(1, -1, WIDTH)),
        ),
        "convolution block": (block.apply, block.init(jax.random.key(0), image)),
    }


def models_table(config: Comparison, rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `compare` in Markdown, with published accuracies where the config has any."""
    last = config.batch_sizes[-1]
    accuracies = {label: section.get("accuracy") for label, section in config.models.items()}
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {"model": lambda row: row["model"]}
    if any(accuracies.values()):
        columns["top-1, % (published)"] = lambda row: str(accuracies[row["model"]] or "-")
    columns["parameters, M"] = lambda row: f"{row['parameters'] / 1e6:.3f}"
    columns["multiply-adds, G"] = lambda row: f"{row['multiply_adds'] / 1e9:.2f}"
    for batch in config.batch_sizes:
        columns[f"ms, batch {batch}"] = lambda row, batch=batch: f"{row[f'milliseconds_{batch}']:.1f}"
    columns[f"times {config.reference}"] = lambda row: f"{row['relative_1']:.2f}"
    columns[f"images/s, batch {last}"] = lambda row: f"{row[f'images_per_second_{last}']:.1f}"
    columns[f"memory, MB, batch {last}"] = lambda row: f"{row[f'memory_{last}'] / 1e6:.0f}"
    return _markdown([list(columns)] + [[cell(row) for cell in columns.values()] for row in rows])


def growth_table(tokens: Sequence[int], curves: Mapping[str, Mapping[str, Any]]) -> str:
    """The curves of `grow` in Markdown, a line for each number of tokens and the exponents below."""
    units = {"ms": "milliseconds", "MB": "megabytes"}
    cells = [(name, unit, curve, units[unit]) for name, curve in curves.items() for unit in units]
    lines = [["tokens"] + [f"{name}, {unit}" for name, unit, _, _ in cells]]
    for index, number in enumerate(tokens):
        lines.append([str(number)] + [f"{curve[quantity][index]:.2f}" for _, _, curve, quantity in cells])
    lines.append(["grows with"] + [f"tokens^{curve[f'{quantity}_growth']:.2f}" for _, _, curve, quantity in cells])
    return _markdown(lines)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    texts = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([texts[0], "|---" * len(lines[0]) + "|", *texts[1:]]) + "\n"


def benchmark(config_spec: str, folder: Path, overrides: dict[str, str]) -> dict[str, float]:
    """Measures all models of the config, writes all of it into `folder` and returns `{"<model>/<quantity>": value}`.

    Raises UserError for a config that is not one of a comparison.
    """
    stored = load(config_spec, overrides)
    if not stored.get("models"):
        raise UserError(f"{config_spec} lists no models to compare: use configs/vision/compare.py")
    config = build(Comparison, stored, "")
    with claim(folder, stored):
        return _benchmark(config, folder)


def _benchmark(config: Comparison, folder: Path) -> dict[str, float]:
    write_manifest(folder)
    began = time.monotonic()
    rows = compare(config)
    machine = f"{config.size} x {config.size} pixels, float32, {jax.devices()[0].device_kind}"
    text = f"{machine}, median of {config.rounds} rounds\n\n{models_table(config, rows)}"
    print(text, flush=True)
    tokens, curves = [side**2 for side in config.sides], grow(config.sides, config.rounds)
    table = growth_table(tokens, curves)
    print(table, end="")
    write_text(folder / "comparison.md", f"{text}\n{table}")
    cost_picture(rows, config.batch_sizes, folder / "models.png")
    panels = {"milliseconds": "milliseconds", "megabytes": "megabytes of activations"}
    growth_picture(tokens, curves, panels, folder / "tokens.png")
    results = {f"{row['model']}/{name}": value for row in rows for name, value in row.items() if name != "model"}
    results |= {f"{kind}/{name}": curve[name] for kind, curve in curves.items() for name in curve if "growth" in name}
    write_json(folder / "timing.json", {"seconds": time.monotonic() - began})
    write_json(folder / "results.json", results)
    print(f"\ntables and pictures are in {folder}")
    return results
