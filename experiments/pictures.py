"""Draws a run: `python -m experiments.pictures --workdir=FOLDER ["A sentence to translate." or an image file]`.

Into the run's folder: `learning_curves.png` and `schedule.png`. For models that translate `masks.png`, `positions.png`
and, while the model translates the sentence, `attention/<layer>.png` for every attention layer and head, with the
numbers in `attention.json`. For image classifiers with a feature map (ResNet, MobileNet, EfficientFormer, Swin)
`relevance.png`, the places that speak for the predicted class; for a ViT `attention/<layer>.png` over the image for
each head, and `attention/rollout.png` through all layers.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from experiments.predict import example_of
from research.analysis.attention import attention_weights, rollout, sides, special_tokens
from research.analysis.pictures import (
    attention_heat_maps,
    image_heat_maps,
    learning_curves,
    mask_pictures,
    position_picture,
    schedule_picture,
)
from research.analysis.relevance import grad_cam
from research.data.tokenizer import PAD
from research.errors import UserError
from research.files import write_json
from research.layers.masks import causal_mask, padding_mask
from research.layers.positions import sinusoidal_positions
from research.runs.command import run_command
from research.runs.experiment import Experiment, open_run
from research.tasks.classification import Classification
from research.tasks.translation import Translation
from research.training.checkpoints import Checkpoints
from research.training.loggers import read_metrics


def draw(experiment: Experiment, item: str | None = None, *, data: bool = False) -> None:
    """Draws what applies to the experiment.

    item: a sentence or an image file; the first example of the validation split unless given. data: reads the run's
    data wherever they lie; otherwise the schedule and that first example are drawn only if no file is needed for them,
    since somebody else's config may name any file.
    """
    folder = experiment.folder
    learning_curves(read_metrics(folder / "metrics.jsonl"), folder / "learning_curves.png")
    example: Mapping[str, Any] | None = None
    if data or not experiment.source.paths():
        steps = np.unique(np.linspace(0, len(experiment.run.batches) - 1, 500).astype(int))
        rates = np.array([float(experiment.run.learning_rate(int(step))) for step in steps])
        schedule_picture(rates, steps, folder / "schedule.png")
        example = experiment.examples("validation" if "validation" in experiment.source.splits else "train")[0]
    if item is not None:
        example = example_of(experiment, item)
    if example is not None and isinstance(experiment.task, Translation):
        _draw_translation(experiment, example["source"])
    elif example is not None and isinstance(experiment.task, Classification):
        _draw_image(experiment, {"image": example["image"]})
    elif item is not None:
        raise UserError("this run neither translates nor classifies images: leave the sentence or image out")


def _draw_translation(experiment: Experiment, sentence: str) -> None:
    task, folder = experiment.task, experiment.folder
    variables = _variables(experiment)
    (answer,) = experiment.evaluator.answers(variables, task.questions([{"source": sentence}]))
    pair = task.dataset([{"source": sentence, "target": answer["text"]}], train=False, seed=0)
    batch = pair.batch(np.zeros(1, np.int64), np.zeros(1, np.int64), None)
    tokens = {
        side: [task.vocabulary.id_to_token(token) for token in batch[side][0][batch[side][0] != PAD]]
        for side in ("source", "target_input", "target_output")
    }
    weights = attention_weights(experiment.model, variables, *task.model_inputs(batch))
    (folder / "attention").mkdir(exist_ok=True)
    layers = {}
    for path, layer in weights.items():
        queries, keys = (tokens[side] for side in sides(path))
        heads = layer[0, :, : len(queries), : len(keys)]
        layers[path] = {"queries": queries, "keys": keys, "weights": np.round(heads, 4).tolist()}
        file = folder / "attention" / f"{path.replace('/', '_')}.png"
        attention_heat_maps(heads, keys, queries, f"{path}: {sentence!r} -> {answer['text']!r}", file)
    write_json(folder / "attention.json", {"source": sentence, "answer": answer["text"], "layers": layers})
    _draw_masks_and_positions(experiment, batch)


def _variables(experiment: Experiment) -> dict[str, Any]:
    with Checkpoints(experiment.folder / "checkpoints", experiment.checkpoint, write=False) as checkpoints:
        return experiment.variables(checkpoints)[0]


def _draw_image(experiment: Experiment, example: dict[str, Any]) -> None:
    model, task, folder, variables = experiment.model, experiment.task, experiment.folder, _variables(experiment)
    batch = task.questions([example]).batch(np.zeros(1, np.int64), np.zeros(1, np.int64), None)
    (inputs,) = task.model_inputs(batch)
    image = batch["image"][0]
    (answer,) = experiment.evaluator.answers(variables, task.questions([example]))
    title = f"{answer['label']} ({answer['probability']:.2f})"
    if hasattr(model, "feature_map"):
        best = task.class_names.index(answer["label"])
        relevance = np.asarray(grad_cam(model, variables, inputs, np.array([best])))[0]
        image_heat_maps(image, {"relevance": relevance}, title, folder / "relevance.png")
    elif hasattr(model, "patch_size"):
        _draw_patch_attention(model, attention_weights(model, variables, inputs), image, title, folder / "attention")


def _draw_patch_attention(
    model: nn.Module, weights: dict[str, np.ndarray], image: np.ndarray, title: str, folder: Path
) -> None:
    grid = image.shape[0] // model.patch_size, image.shape[1] // model.patch_size
    special = special_tokens(model)
    folder.mkdir(exist_ok=True)
    for path, layer in weights.items():
        maps = {f"head {head + 1}": over_image(heat, grid, special) for head, heat in enumerate(layer[0])}
        image_heat_maps(image, maps, f"{path}: {title}", folder / f"{path.replace('/', '_')}.png")
    square = {path: layer for path, layer in weights.items() if layer.shape[-2] == layer.shape[-1]}
    maps = {"all layers": over_image(rollout(square)[0], grid, special)}
    image_heat_maps(image, maps, f"attention rollout: {title}", folder / "rollout.png")


def over_image(weights: np.ndarray, grid: tuple[int, int], special: int) -> np.ndarray:
    """What the class token, or all patches on average where there is none, attend to, [rows, columns] of patches.

    weights: [queries, keys] of tokens: `special` ones, of which the first is the class token, then the patches, then
    registers if there are any.
    """
    patches = slice(special, special + grid[0] * grid[1])
    seen = weights[0] if special else weights[patches].mean(axis=0)
    return seen[patches].reshape(grid)


def _draw_masks_and_positions(experiment: Experiment, batch: dict[str, Any]) -> None:
    source, target = batch["source"], batch["target_input"]
    length = target.shape[1]
    valid = np.asarray(padding_mask(source != PAD))[0, 0]
    masks = {
        "encoder: padding": np.broadcast_to(valid, (source.shape[1], source.shape[1])),
        "decoder: causal": np.asarray(causal_mask(length))[0, 0],
        "cross: padding": np.broadcast_to(valid, (length, source.shape[1])),
    }
    mask_pictures(masks, experiment.folder / "masks.png")
    if getattr(experiment.model, "positions", None) == "sinusoidal":
        table = np.asarray(sinusoidal_positions(max(length, 50), experiment.model.width))
        position_picture(table, experiment.folder / "positions.png")


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    experiment = open_run(Path(arguments.workdir))
    paths = experiment.source.paths()
    draw(experiment, arguments.item, data=arguments.data)
    print(f"pictures are in {arguments.workdir}")
    if paths and not arguments.data:
        print(f"its data were not read: with --data, what needs {', '.join(paths)} is drawn too")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m experiments.pictures", description=__doc__)
    parser.add_argument("--workdir", required=True, help="the run's folder")
    parser.add_argument("item", nargs="?", help="the sentence to translate, or the image file to look at")
    parser.add_argument("--data", action="store_true", help="read the files that the run's config names as its data")
    run_command(main, parser)
