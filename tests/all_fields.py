"""Every field of every config class with every kind of wrong value, made from the annotations.

    python -m tests.all_fields --seconds=3600 --only=training.

really trains two steps of each of the small experiments below with one field changed, in a process of its own, for the
values that `build` takes, in an order drawn from --seed. A run must end well or in one sentence, within --limit seconds
and --memory GiB; what does neither is printed, and the exit code is then 1. A case takes two to ten seconds.
"""

import argparse
import dataclasses
import itertools
import json
import math
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from research.config import choose, from_json, load, to_json
from research.data.tokenizer import Tokenizer
from research.data.transforms.geometry import Augmentation
from research.data.transforms.photo import PhotoAugmentation
from research.errors import UserError
from research.parallel.mesh import MeshShape
from research.ranges import Range, marks
from research.runs.experiment import OPTIMIZERS, SCHEDULES
from research.runs.tables import MODELS, SOURCES, TASKS
from research.training.checkpoints import CheckpointPolicy
from research.training.durations import Duration, Interval
from research.training.run import TrainingOptions
from research.training.transfer import Transfer
from tests.boxes import write_boxes
from tests.captions import write_captions
from tests.image_masks import write_masks

WRONG = (-1, 0, 1, 10**9, 10**30, 10**400, 1e300, -1e300, 1e-300, math.nan, math.inf, -math.inf, "x", "", "(", [], {})
ODD = (*WRONG, None, True, False, [1], [1] * 50, {"x": 1}, "a\0b", "\ud800")

DIGITS, PHRASES = "configs/vision/digits.py:tiny", "configs/translation/phrasebook.py:tiny"
MEMBRANE = "configs/vision/membrane.py:folder=FOLDER/masks,tiny"
SMALL_IMAGES = {"depths": (1, 1), "width": 8}
BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "digits": (DIGITS, {}),
    "adam": (DIGITS, {"optimizer": {"name": "adam", "learning_rate": 1e-3}}),
    "sgd": (DIGITS, {"optimizer": {"name": "sgd", "learning_rate": 1e-3}}),
    "adafactor": (DIGITS, {"optimizer": {"name": "adafactor", "learning_rate": 1e-3}}),
    "linear": (DIGITS, {"schedule": {"name": "linear"}}),
    "constant": (DIGITS, {"schedule": {"name": "constant"}}),
    "drop": (DIGITS, {"schedule": {"name": "drop", "at": 0.5}}),
    "inverse_sqrt": (DIGITS, {"schedule": {"name": "inverse_sqrt", "warmup": {"steps": 2}}}),
    "noam": (DIGITS, {"schedule": {"name": "noam", "width": 16, "warmup": {"steps": 2}}}),
    "resnet": (DIGITS, {"model": {"name": "resnet", "bottleneck": False, "small_images": True, **SMALL_IMAGES}}),
    "mobilenet": (DIGITS, {"model": {"name": "mobilenet", "multiplier": 0.1, "head_width": 8}}),
    "efficientformer": (
        DIGITS,
        {"model": {"name": "efficientformer", "depths": (1,), "widths": (8,), "num_attention": 1, "resolution": 2}},
    ),
    "swin": (
        DIGITS,
        {"model": {"name": "swin", "num_heads": (1, 2), "window": 2, "patch_size": 2, "mlp_ratio": 2, **SMALL_IMAGES}},
    ),
    "mae": ("configs/vision/mae.py:tiny", {}),
    "unet": (MEMBRANE, {}),
    "segmenter": (f"{MEMBRANE},model=segmenter", {}),
    "transunet": (f"{MEMBRANE},model=transunet", {}),
    "segformer": (
        MEMBRANE,
        {
            "model": {
                "name": "segformer",
                "widths": (8,) * 4,
                "depths": (1,) * 4,
                "decoder_width": 8,
                "num_heads": (1,) * 4,
            }
        },
    ),
    "upernet": (
        MEMBRANE,
        {
            "model": {
                "name": "upernet",
                "width": 8,
                "backbone": {"name": "resnet", "num_classes": 0, "bottleneck": False, **SMALL_IMAGES},
            }
        },
    ),
    "scenes": ("configs/vision/segmenter_scenes.py:tiny", {}),
    "two_towers": ("configs/multimodal/siglip_scenes.py:tiny", {}),
    "captioner": ("configs/multimodal/caption_scenes.py:tiny", {}),
    "captions": ("configs/multimodal/clip_coco.py:folder=FOLDER/captions,tiny", {}),
    "boxes": ("configs/vision/bccd.py:folder=FOLDER/boxes,tiny", {}),
    "jigsaw": ("configs/vision/jigsaw.py:tiny", {}),
    "packed": ("configs/vision/packed.py:tiny", {}),
    "images": (
        DIGITS,
        {
            "data": {"name": "image_folder", "path": "FOLDER/images", "size": 8},
            "task": {"name": "classification", "photo": {"size": 8, "policy": "randaugment"}},
            "model.pool": "cls",
        },
    ),
    "shakespeare": ("configs/language/shakespeare.py:tiny", {"data.path": "FOLDER/text.txt"}),
    "grokking": ("configs/theory/grokking.py:tiny", {}),
    "phrasebook": (PHRASES, {}),
    "rnn": (PHRASES, {"model": {"name": "rnn", "num_layers": 1, "width": 8}}),
    "scan": ("configs/translation/scan.py:tiny", {}),
    "parallel": (
        PHRASES,
        {
            "data": {"name": "parallel_text", "train_source": "FOLDER/a.txt", "train_target": "FOLDER/a.txt"},
            "training.evaluate_every": None,
        },
    ),
    "text_classification": ("configs/language/fine_tune.py:tiny", {"data.path": "FOLDER/texts.csv"}),
    "token_classification": (
        "configs/language/ud_ewt.py:folder=.,tiny",
        {"data.path": "FOLDER/words.conllu", "data.test_path": "none"},
    ),
    "question_answering": ("configs/language/stories.py:tiny", {}),
    "squad": (
        "configs/language/squad.py:tiny",
        {"data.path": "FOLDER/squad.json", "data.validation_path": "FOLDER/squad.json"},
    ),
    "masked_language": ("configs/language/bert_pretrain.py:tiny", {}),
    "sentences": ("configs/language/sentences.py:tiny", {}),
    "listops": ("configs/theory/listops.py:tiny", {}),
    "algorithmic": ("configs/theory/length_generalization.py:tiny", {}),
}
"""Small experiments by label: a config and what is changed in it. FOLDER is one that `make_data` fills."""

OWN: dict[type, Mapping[str, Any]] = {
    **{OPTIMIZERS[name]: {"learning_rate": 0.1} for name in OPTIMIZERS},
    **{MODELS[name]: {"vocab_size": 10} for name in ("bert", "gpt", "decoder", "seq2seq", "rnn", "captioner")},
    **{MODELS[name]: {"num_classes": 10} for name in ("vit", "swin", "resnet", "mobilenet", "efficientformer")},
    **{
        MODELS[name]: {"num_classes": 10} for name in ("detr", "segformer", "segmenter", "transunet", "unet", "upernet")
    },
    Duration: {"steps": 1},
    Interval: {"steps": 1},
    TrainingOptions: {"duration": {"steps": 1}, "batch_size": 8},
}
"""What the small experiments do not say of a class, or its only fields where none has it."""


def config_classes() -> list[type]:
    """All classes that a section of a config, or a part of one, becomes."""
    tables = (SOURCES, TASKS, MODELS, OPTIMIZERS, SCHEDULES)
    parts = (TrainingOptions, CheckpointPolicy, MeshShape, Transfer, Tokenizer, Augmentation, PhotoAugmentation)
    return [*(cls for table in tables for cls in table.values()), *parts, Duration, Interval]


def fields_of(cls: type) -> dict[str, Any]:
    """The fields that a config may set, with their hints."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        field.name: hints[field.name]
        for field in dataclasses.fields(cls)
        if field.init and field.name not in ("parent", "name")
    }


def values_for(hint: Any) -> list[Any]:
    """Values of every kind, and the ends of each of the hint's ranges with their neighbours beyond and within."""
    values = list(ODD)
    for mark in marks(hint):
        if isinstance(mark, Range):
            ends = [end for end in (mark.low, mark.high) if math.isfinite(end)]
            near = [side for end in ends for side in (end - 1, end + 1, math.nextafter(end, -9e9), 1e-6 + end, end)]
            values += [*near, *([side] for side in near), *({"x": side} for side in near)]
    values += [choice for arm in (hint, *typing.get_args(hint)) for choice in _choices(arm)]
    return list({repr(value): value for value in values}.values())


def _choices(hint: Any) -> Sequence[Any]:
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


def needed(cls: type) -> dict[str, Any]:
    """The fields without which the class cannot be built."""
    minimum = {
        "tokenizer": {"kind": "word"},
        "warmup": {"steps": 1},
        "bottleneck": True,
        "depths": (1,),
        "widths": (8,),
        "num_heads": (1,) if cls is MODELS["swin"] else 1,
        "num_attention": 0,
        "dataset": "x",
        "classes": ("x",),
        "encoder": {"name": "own"},
        "image": {"name": "own"},
        "text": {"name": "own"},
        "backbone": {"name": "own"},
        "at": 0.5,
    }
    missing = {
        field.name: minimum.get(field.name, "x" if fields_of(cls)[field.name] is str else 8)
        for field in dataclasses.fields(cls)
        if field.default is field.default_factory is dataclasses.MISSING and field.name in fields_of(cls)
    }
    return missing | dict(OWN.get(cls, {}))


def built(cls: type, name: str, value: Any, base: Mapping[str, Any]) -> Any | UserError:
    """An object of the class with one field changed, or the error."""
    try:
        return choose({"own": cls}, {"name": "own", **base, name: value}, "section")
    except UserError as error:
        return error


def make_data(folder: Path) -> None:
    """The files that the small experiments read."""
    write_masks(folder / "masks")
    write_captions(folder / "captions")
    write_boxes(folder / "boxes")
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefgh ", k=6)).strip() or "a" for _ in range(400)]
    (folder / "text.txt").write_text(" ".join(words) * 4, encoding="utf-8")
    (folder / "a.txt").write_text("".join(f"{a} {b}\n" for a, b in itertools.pairwise(words)), "utf-8")
    table = "".join(f"{a} {b},{'yes' if 'a' in a else 'no'}\n" for a, b in itertools.pairwise(words))
    (folder / "texts.csv").write_text("text,label\n" + table, "utf-8")
    (folder / "words.conllu").write_text("1\tgood\t_\tADJ\n2\tdogs\t_\tNOUN\n\n" * 50, "utf-8")
    context = "Mary went to the park. John went to the office."
    asked = [
        {
            "id": str(n),
            "question": f"Where is {who}?",
            "answers": [{"text": where, "answer_start": context.index(where)}],
        }
        for n, (who, where) in enumerate([("Mary", "park"), ("John", "office")] * 10)
    ]
    squad = {"version": "1.1", "data": [{"title": "a", "paragraphs": [{"context": context, "qas": asked}]}]}
    (folder / "squad.json").write_text(json.dumps(squad), "utf-8")
    for label in ("cat", "dog"):
        (folder / "images" / label).mkdir(parents=True)
        for number in range(12):
            pixels = np.random.default_rng(number).integers(0, 256, (12, 10, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "images" / label / f"{number}.png")


def base_config(label: str, folder: Path) -> ConfigDict:
    """The config of a small experiment of two steps."""
    spec, changes = BASES[label]
    config = load(spec)
    for path, value in changes.items():
        put(config, path, value)
    config.training.update(log_every=1, duration={"steps": 2})
    return from_json(to_json(config).replace("FOLDER", str(folder)))


def put(config: ConfigDict, path: str, value: Any) -> None:
    """Sets a dotted path; None takes a section away."""
    *sections, key = path.split(".")
    with config.unlocked(), config.ignore_type():
        for name in sections:
            if config.get(name) is None:
                config[name] = ConfigDict()
            config = config[name]
        if key in config:
            del config[key]
        config[key] = value


def parts_of(config: ConfigDict) -> Iterator[tuple[str, type]]:
    """The sections of a config, and the parts of them that are classes too, with these."""
    tables = {"data": SOURCES, "task": TASKS, "model": MODELS, "optimizer": OPTIMIZERS, "schedule": SCHEDULES}
    found = {name: table[config[name].name] for name, table in tables.items() if name in config}
    found |= {"training": TrainingOptions, "checkpoint": CheckpointPolicy, "mesh": MeshShape}
    for name, cls in found.items():
        yield name, cls
        for field, hint in fields_of(cls).items():
            for arm in (hint, *typing.get_args(hint)):
                if (
                    isinstance(arm, type)
                    and dataclasses.is_dataclass(arm)
                    and (arm is hint or field in config.get(name, {}))
                ):
                    yield f"{name}.{field}", arm


def cases(folder: Path) -> Iterator[tuple[str, str, Any]]:
    """(label, path, value) of every change of a small experiment that `build` takes, each class's once."""
    seen = set()
    for label in BASES:
        config = base_config(label, folder)
        for section, cls in parts_of(config):
            if cls in seen:
                continue
            seen.add(cls)
            there = config
            for name in section.split("."):
                there = there.get(name) or ConfigDict()
            base = needed(cls) | {key: value for key, value in there.items() if key != "name"}
            for name, hint in fields_of(cls).items():
                for value in values_for(hint):
                    alone = {} if cls in (Duration, Interval) else base
                    if not isinstance(built(cls, name, value, alone), UserError):
                        path = section if alone is not base else f"{section}.{name}"
                        yield label, path, {name: value} if alone is not base else value


def trained(config: ConfigDict, folder: Path, seconds: int, gibibytes: int) -> str:
    """How a run of the config ends in a process of its own: "" for well or in one sentence, or what is wrong."""
    log = folder / "log.txt"
    child = os.fork()
    if not child:
        _train(config, folder / "run", log, gibibytes)
    end = time.monotonic() + seconds
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"not over after {seconds} s"
        time.sleep(0.05)
    code, lines = os.waitstatus_to_exitcode(ended[1]), log.read_text(errors="replace").strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if code == 0 or (code == 2 and len(errors) == 1 and lines[-1] == errors[0]):
        return ""
    return f"code {code}: {' | '.join(lines[-3:])[:600]}"


def _train(config: ConfigDict, folder: Path, log: Path, gibibytes: int) -> typing.NoReturn:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    resource.setrlimit(resource.RLIMIT_DATA, (gibibytes * 2**30,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    code = 1
    try:
        from experiments import train
        from research.runs import command

        spec = folder.parent / "config.py"
        lines = ("from research.config import from_json", f"TEXT = {to_json(config)!r}", "def get_config(arg):")
        spec.write_text("\n".join((*lines, "    return from_json(TEXT)", "")), encoding="utf-8")
        sys.argv = ["train", f"--config={spec}", f"--workdir={folder}"]
        command.run_command(train.main, train.parser())
        code = 0
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.all_fields", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("seconds", 3600), ("limit", 120), ("memory", 8), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", default="", help="what the label or the path of a case has to hold")
    arguments = parser.parse_args()
    began, failed, count = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        make_data(data)
        chosen = [case for case in cases(data) if arguments.only in f"{case[0]} {case[1]}"]
        random.Random(arguments.seed).shuffle(chosen)
        for label, path, value in chosen:
            if time.monotonic() - began > arguments.seconds:
                break
            with tempfile.TemporaryDirectory() as folder:
                config = base_config(label, data)
                put(config, path, value)
                wrong = trained(config, Path(folder), arguments.limit, arguments.memory)
            count += 1
            if wrong:
                failed += 1
                print(f"{label}: {path} = {value!r}: {wrong}", flush=True)
        print(f"{count} of {len(chosen)} cases, {failed} wrong, {time.monotonic() - began:.0f} s")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
