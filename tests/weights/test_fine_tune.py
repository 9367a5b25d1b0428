"""Every published model that becomes a run is trained on from there: nothing of it is lost, only a head is new."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from experiments.train import train
from research.errors import UserError
from research.weights.published import family_of
from tests.boxes import write_boxes
from tests.captions import write_captions
from tests.runs.test_weights import CONFIG, WORDS, arrays_of, changed, command
from tests.runs.test_weights_detection import PIXELS as DETECTION
from tests.runs.test_weights_segmentation import PIXELS as SEGMENTATION

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
GOLDEN, TEXTS = FIXTURES / "transformers", FIXTURES / "texts"
NAMES = sorted(path.name for path in GOLDEN.iterdir())
NO_TASK = {
    "dinov2": "features without a head",
    "dinov2_registers": "features without a head",
    "mae": "pre-training, whose decoder is thrown away",
    "vit_features": "features without a head",
}
"""Models that are started from as folders (`train --from=FOLDER`): no task here answers with them."""


def published(name, folder):
    """The golden model as a folder that `import` takes: with a tokenizer or the preprocessing where it needs one."""
    if (TEXTS / name).exists():
        shutil.copytree(TEXTS / name, folder)
        return
    shutil.copytree(GOLDEN / name, folder)
    if name.startswith("bert"):
        (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    elif name.startswith(("roberta", "gpt2")):
        for file in ("vocab.json", "merges.txt"):
            shutil.copy(TEXTS / "roberta" / file, folder)
        arrays = load_file(folder / "model.safetensors")
        (table,) = (key for key in arrays if key.endswith(("word_embeddings.weight", "wte.weight")))
        more = np.random.default_rng(0).normal(size=(260, 16)).astype(np.float32)
        save_file(arrays | {table: np.concatenate([arrays[table], more])}, folder / "model.safetensors")
        changed(folder, vocab_size=300)
    elif name == "t5_gated":
        stored = json.loads((TEXTS / "t5" / "tokenizer.json").read_text())
        stored["model"]["vocab"], stored["added_tokens"] = stored["model"]["vocab"][:38], stored["added_tokens"][:3]
        (folder / "tokenizer.json").write_text(json.dumps(stored))
    elif name in ("segformer", "upernet", "detr"):
        pixels = DETECTION if name == "detr" else SEGMENTATION
        (folder / "preprocessor_config.json").write_text(json.dumps(pixels))


def photos(folder):
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)
        (folder / f"class_{number % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"class_{number % 2}" / f"{number}.png")
    return {"name": "image_folder", "path": str(folder), "validation_fraction": 0.25}


def masks(folder):
    for name, high in (("images", (64, 64, 3)), ("masks", (64, 64))):
        (folder / name).mkdir(parents=True)
        for number in range(6):
            pixels = np.random.default_rng(number).integers(0, 2, high, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return {"name": "image_masks", "path": str(folder), "classes": ("a", "b"), "validation": 2}


def boxes(folder):
    paths = {"path": "train", "validation_path": "val"}
    whole = write_boxes(folder)
    return {"name": "coco", **{key: f"{whole}/instances_{split}.json" for key, split in paths.items()}}


LINES = [f"{first} ba {last}." for first in "abcd" for last in "xyz"]


def written(folder, name, lines):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(lines) + "\n")
    return str(folder / name)


def pairs(folder):
    files = {f"train_{side}": written(folder, side, LINES) for side in ("source", "target")}
    files |= {f"validation_{side}": files[f"train_{side}"] for side in ("source", "target")}
    return {"name": "parallel_text", **files}


def text(folder):
    return {"name": "text_file", "path": written(folder, "text.txt", [f"{line}\n" for line in LINES * 4])}


def labels(folder):
    lines = ["text,label", *(f"{line},{line[-2]}" for line in LINES)]
    return {"name": "table", "path": written(folder, "texts.csv", lines), "folds": 4}


def tags(folder):
    lines = [f"{word} {tag}" for line in LINES for word, tag in [*zip(line.split(), "XYZ", strict=True), ("", "")]]
    return {"name": "conll", "path": written(folder, "words.conll", [line.strip() for line in lines]), "folds": 4}


def questions(folder):
    paragraphs = [
        {"context": line, "qas": [{"id": line, "question": "ba", "answers": [{"text": "ba", "answer_start": 2}]}]}
        for line in LINES
    ]
    content = json.dumps({"data": [{"title": "", "paragraphs": paragraphs}]})
    return {"name": "squad", "path": written(folder, "questions.json", [content]), "folds": 4}


def captions(folder):
    write_captions(folder)
    names = {"path": "captions_train.tsv", "validation_path": "captions_val.tsv"}
    return {"name": "captions", "images": str(folder / "images"), **{k: str(folder / v) for k, v in names.items()}}


DATA = {
    "classification": (photos, ["^head"]),
    "segmentation": (masks, ["^head/"]),
    "detection": (boxes, ["^head/"]),
    "sentences": (pairs, []),
    "masked_language": (text, []),
    "language_modeling": (text, []),
    "translation": (pairs, []),
    "text_classification": (labels, ["^head/"]),
    "token_classification": (tags, ["^head/"]),
    "question_answering": (questions, []),
    "image_text": (captions, []),
}
"""Small data of each task, and what is new where their classes are others than the published model's."""


def test_every_model_is_tried_or_has_a_reason():
    configs = [json.loads((GOLDEN / name / "config.json").read_text()) for name in NAMES if name not in NO_TASK]
    assert NO_TASK.keys() <= {*NAMES} and {family_of(config)[0].task for config in configs} == DATA.keys()


@pytest.mark.parametrize("name", NO_TASK)
def test_models_that_have_no_task_say_so(name, tmp_path):
    published(name, tmp_path / name)
    with pytest.raises(UserError, match="start a training from it, with train --from="):
        command("import", tmp_path / name, tmp_path / "run")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NO_TASK])
def test_a_run_is_trained_on(name, tmp_path):
    """Two steps that move the table of tokens or the head alone: all else is what was imported, bit for bit."""
    source, run, tuned = tmp_path / name, tmp_path / "run", tmp_path / "tuned"
    published(name, source)
    command("import", source, run)
    stored = json.loads((run / "config.json").read_text())
    make, new = DATA[stored["task"]["name"]]
    before = arrays_of(run)
    moving = "^(?!head)" if any(path.startswith("params/head") for path in before) else "^(?!(text/)?embedding/)"
    task, model = dict(stored["task"]), dict(stored["model"])
    if "tokenizer" in task:
        task["tokenizer"] = {"path": str(run / "tokenizer.json")}
    model.pop("num_classes", None)
    content = {
        "model": model,
        "task": task,
        "data": make(tmp_path / "data"),
        "optimizer": {"name": "sgd", "learning_rate": 0.1, "multipliers": {moving: 0.0}},
        "training": {"batch_size": 2, "duration": {"steps": 2}},
        "transfer": {"source": "", "new": new},
    }
    (tmp_path / "config.py").write_text(CONFIG.format(config=content))
    results = train(str(tmp_path / "config.py"), tuned, {}, str(run))
    assert results and all(np.isfinite(value) for value in results.values())
    after = arrays_of(tuned)
    assert before.keys() == after.keys()
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    assert moved
    frozen = [path for path in moved if re.search(moving, path.removeprefix("params/"))]
    assert not [path for path in frozen if path.startswith("params/")]  # statistics of batches move in any case
