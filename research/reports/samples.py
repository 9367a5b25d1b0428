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
from sacrebleu.metrics import CHRF

from research.analysis.attention import attention_weights, sides, special_tokens
from research.data.tokenizer import PAD
from research.errors import UserError
from research.files import write_json
from research.runs.experiment import Experiment
from research.tasks.classification import Classification
from research.tasks.language_modeling import LanguageModeling
from research.tasks.scores import remove_bpe
from research.tasks.translation import Translation
from research.training.checkpoints import Checkpoints

TEXTS, IMAGES, LOOKS = 8, 18, 3
"""Translations and images shown, and how many of the examples are shown with the model's attention."""

MAX_TOKENS = 80
ATTENTION_BYTES = 1_500_000


def record(experiment: Experiment, memory: Mapping[str, int]) -> None:
    """Writes `report.json` for tasks that translate, continue texts or classify images; for others it has no samples.

    `memory` are the run's peaks in bytes by name, {} where they are not known.
    """
    with Checkpoints(experiment.folder / "checkpoints", experiment.checkpoint, write=False) as checkpoints:
        variables, step = experiment.variables(checkpoints)
    split = next((name for name in reversed(experiment.source.splits) if name != "train"), "train")
    recorders = {Translation: _translations, LanguageModeling: _continuations, Classification: _images}
    recorder = recorders.get(type(experiment.task), lambda *_: ([], []))
    samples, attention = recorder(experiment, variables, experiment.source.examples(split))
    content = {"samples": samples, "attention": within(attention, ATTENTION_BYTES), "memory": memory}
    write_json(experiment.folder / "report.json", {"split": split, "step": step, **content})


def peak_memory() -> dict[str, int]:
    """The most bytes that this process, and its first device where that keeps count, have held so far."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    return peaks | ({"device": statistics["peak_bytes_in_use"]} if "peak_bytes_in_use" in statistics else {})


def _translations(experiment: Experiment, variables: Mapping, examples: Sequence[Mapping]) -> tuple[list, list]:
    task, metric, pairs = experiment.task, CHRF(), []
    chosen = _fitting(experiment, examples, TEXTS)
    clean = remove_bpe if task.join_bpe else str
    samples = []
    for example, answer in zip(chosen, _answers(experiment, variables, chosen), strict=True):
        source, text, target = (clean(value) for value in (example["source"], answer["text"], example["target"]))
        score = metric.sentence_score(text, [target]).score
        samples.append({"source": source, "answer": text, "reference": target, "chrf": score})
        pairs.append({"source": example["source"], "target": answer["text"]})
    pairs = sorted(pairs, key=lambda pair: len(pair["target"].split()))[-LOOKS:]  # long answers tell more
    return samples, _look_at_pairs(experiment, variables, pairs, clean)


def _look_at_pairs(experiment: Experiment, variables: Mapping, pairs: Sequence[Mapping], clean: Any) -> list[dict]:
    if not pairs:
        return []
    task, looks = experiment.task, []
    batch = task.dataset(pairs, train=False, seed=0).batch(np.arange(len(pairs)), np.zeros(len(pairs), np.int64), None)
    layered = attention_weights(experiment.model, variables, *task.model_inputs(batch))
    layered = dict(sorted(layered.items(), key=lambda item: item[0].startswith("decoder")))
    for index, pair in enumerate(pairs):
        padded = {side: batch[side][index] for side in ("source", "target_input", "target_output")}
        ids = {side: tokens[tokens != PAD][:MAX_TOKENS] for side, tokens in padded.items()}
        tokens = {side: [task.vocabulary.id_to_token(int(token)) for token in kept] for side, kept in ids.items()}
        layers = []
        for path, weights in layered.items():
            rows, columns = sides(path)
            layers.append(layer(path, weights[index, :, : len(tokens[rows]), : len(tokens[columns])], rows, columns))
        title = f"{clean(pair['source'])} → {clean(pair['target'])}"
        looks.append({"kind": "text", "title": title, "tokens": tokens, "layers": layers})
    return looks


def _continuations(experiment: Experiment, variables: Mapping, examples: Sequence[Mapping]) -> tuple[list, list]:
    task, text = experiment.task, examples[0]["text"]
    starts = [text.find("\n", len(text) * part // LOOKS) + 1 if part else 0 for part in range(LOOKS)]
    prompts = [{"text": text[start : start + max(task.length // 4, 1)]} for start in starts]
    chosen = _fitting(experiment, prompts, LOOKS)
    samples, looks = [], []
    for prompt, answer in zip(chosen, _answers(experiment, variables, chosen), strict=True):
        samples.append({"prompt": prompt["text"], "answer": answer["text"].removeprefix(prompt["text"])})
        ids = task.vocabulary.encode(answer["text"])[:MAX_TOKENS]
        names = [task.vocabulary.id_to_token(token) for token in ids]
        tokens = {"read": names[:-1], "written": names[1:]}
        inputs = task.model_inputs({"tokens": np.array([ids], np.int32)})
        weights = attention_weights(experiment.model, variables, *inputs)
        layers = [layer(path, heads[0], "written", "read") for path, heads in weights.items()]
        looks.append({"kind": "text", "title": prompt["text"], "tokens": tokens, "layers": layers})
    return samples, looks


def _images(experiment: Experiment, variables: Mapping, examples: Sequence[Mapping]) -> tuple[list, list]:
    task, model = experiment.task, experiment.model
    picked = np.linspace(0, len(examples) - 1, min(IMAGES, len(examples))).astype(int)  # files may lie sorted by class
    chosen = [examples[int(index)] for index in picked]
    answers = _answers(experiment, variables, chosen)
    batch = task.questions(chosen).batch(np.arange(len(chosen)), np.zeros(len(chosen), np.int64), None)
    labels = [task.class_names[int(example["label"])] for example in chosen]
    pictures = [png(pixels) for pixels in batch["image"]]
    samples = [
        {"image": picture, "reference": label, **answer}
        for picture, label, answer in zip(pictures, labels, answers, strict=True)
    ]
    if not hasattr(model, "patch_size"):
        return samples, []
    grid = [size // model.patch_size for size in batch["image"].shape[1:3]]
    (pixels,) = task.model_inputs({"image": batch["image"][:LOOKS]})
    layered = attention_weights(model, variables, pixels)
    layered = {path: weights for path, weights in layered.items() if len(weights) == len(pixels)}  # no windows
    layered = {path: weights for path, weights in layered.items() if min(weights.shape[2:]) >= grid[0] * grid[1]}
    looks = []
    for index, (label, answer) in enumerate(zip(labels[:LOOKS], answers, strict=False)):
        layers = [layer(path, weights[index], "patches", "patches") for path, weights in layered.items()]
        title = f"{label}, taken for {answer['label']} ({answer['probability']:.0%})"
        look = {"kind": "image", "title": title, "image": pictures[index], "grid": grid, "layers": layers}
        looks.append(look | {"special": special_tokens(model)})
    return samples, looks


def _answers(experiment: Experiment, variables: Mapping, chosen: Sequence[Mapping]) -> list[dict[str, Any]]:
    return experiment.evaluator.answers(variables, experiment.task.questions(chosen)) if chosen else []


def _fitting(experiment: Experiment, examples: Sequence[Mapping], count: int) -> list[Mapping]:
    """The first examples that the model can take."""
    fitting: list[Mapping] = []
    for index in range(min(len(examples), 10 * count)):
        try:
            experiment.task.questions([examples[index]])
        except UserError:
            continue
        fitting.append(examples[index])
    return fitting[:count]


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
    """A data URI of an image uint8 [height, width, 1 or 3], at most 224 pixels wide or high."""
    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((224, 224))
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
