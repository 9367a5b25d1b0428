"""Values out of their range, and experiments with the most extreme ones that fields take: a sentence before a step."""

import math
from pathlib import Path
from typing import Any

import pytest

from research.config import build, from_json, to_json
from research.data.tokenizer import Tokenizer
from research.data.transforms.geometry import Augmentation
from research.data.transforms.photo import PhotoAugmentation
from research.errors import UserError
from research.ranges import Afterwards
from research.runs.checks import check_before_training
from research.runs.experiment import OPTIMIZERS, build_experiment
from research.runs.tables import MODELS, SOURCES, TASKS
from research.training.checkpoints import CheckpointPolicy
from research.training.run import TrainingOptions
from research.values import marked
from tests.all_fields import (
    ODD,
    base_config,
    cases,
    make_data,
    needed,
    put,
)

VIT, SEQ2SEQ, ADAMW = MODELS["vit"], MODELS["seq2seq"], OPTIMIZERS["adamw"]


@pytest.mark.parametrize(
    ("cls", "name", "values"),
    [
        (VIT, "dropout", (1.5, -0.5, 1, 0.99999999999)),
        (VIT, "stochastic_depth", (1, -0.1)),
        (VIT, "width", (0, -8, 2**20 + 1)),
        (VIT, "patch_size", (0, -1)),
        (VIT, "num_layers", (0, 10**6)),
        (VIT, "norm_epsilon", (0, -1, 1e-300)),
        (SEQ2SEQ, "attention_dropout", (1.0, -0.5)),
        (SEQ2SEQ, "head_size", (0, -1)),
        (MODELS["mobilenet"], "multiplier", (0, -1.0, 1e300)),
        (MODELS["efficientformer"], "widths", ([0], [-8, 8])),
        (ADAMW, "learning_rate", (-1e-3, 1e300)),
        (ADAMW, "clip_norm", (0, -1)),
        (ADAMW, "b2", (2, 1, -0.1)),
        (ADAMW, "eps", (-1, 0)),
        (ADAMW, "layer_decay", (0, 1.5)),
        (ADAMW, "multipliers", ({"head": -1}, {"head": math.nan})),
        (TrainingOptions, "ema", (2, 1, -1)),
        (TrainingOptions, "workers", (-1, 10**6)),
        (TrainingOptions, "evaluate_every", ({"steps": 0}, {"epochs": 0}, {"epochs": math.inf}, {"steps": 2**31})),
        (TrainingOptions, "duration", ({"steps": 0}, {"epochs": 1e300}, {"tokens": -1})),
        (TrainingOptions, "log_every", (0, -1, True, 1.0)),
        (TrainingOptions, "repeats", (0, 9)),
        (CheckpointPolicy, "every", ({"steps": 0}, {"examples": 0})),
        (CheckpointPolicy, "every_minutes", (0, -1)),
        (CheckpointPolicy, "mode", ("lowest", "Min")),
        (TASKS["classification"], "label_smoothing", (2, -1, 1)),
        (TASKS["classification"], "deviation", (0, -0.5)),
        (TASKS["translation"], "length_penalty", (-1, 100)),
        (TASKS["translation"], "beam_size", (0, 10**9)),
        (TASKS["language_modeling"], "temperature", (0, -1, 1e-300)),
        (TASKS["language_modeling"], "top_p", (1.5, 0)),
        (TASKS["language_modeling"], "sample_seed", (-1, 2**32)),
        (TASKS["pretext"], "grid", (1, 2**20)),
        (SOURCES["image_folder"], "size", (0, 2**20)),
        (SOURCES["modular"], "modulus", (1, 2**31 - 1)),
        (SOURCES["phrasebook"], "size", (39, 10**9)),
        (SOURCES["scan"], "seed", (-1, 2**64)),
        (Tokenizer, "vocab_size", (0, 2**31)),
        (Augmentation, "zoom", (1, -0.1)),
        (PhotoAugmentation, "num_ops", (0, 2**31)),
    ],
)
def test_values_out_of_their_range_are_refused(cls: type, name: str, values: tuple[Any, ...]):
    for value in values:
        with pytest.raises(UserError, match=rf"^(section\.{name}|training\.repeats)[^\n]*\Z"):
            build(cls, {**needed(cls), name: value}, "section")


def test_the_ends_of_ranges_are_taken():
    for cls, name, value in [
        (VIT, "dropout", 0),
        (VIT, "width", 2**20),
        (ADAMW, "learning_rate", 0),
        (ADAMW, "layer_decay", 1),
        (TrainingOptions, "workers", 1000),
        (TASKS["language_modeling"], "top_p", 1),
        (TASKS["language_modeling"], "sample_seed", 2**32 - 1),
    ]:
        assert getattr(build(cls, {**needed(cls), name: value}, "section"), name) == value


def test_what_may_be_changed_afterwards():
    decoding = {"beam_size", "length_penalty", "extra_length", "scores", "target_language", "join_bpe"}
    assert marked(TASKS["translation"], Afterwards) == decoding
    sampling = {"temperature", "top_k", "top_p", "sample_seed", "repetition_penalty", "stop", "stride", "new_tokens"}
    assert marked(TASKS["language_modeling"], Afterwards) == sampling
    assert marked(TASKS["image_text"], Afterwards) == {"classes", "templates"}
    written = {"beam_size", "length_penalty", "temperature", "sample_seed"}
    assert marked(TASKS["captioning"], Afterwards) == written
    assert marked(SOURCES["parallel_text"], Afterwards) == {"test_source", "test_target"}
    assert marked(SOURCES["image_folder"], Afterwards) == {"test_path"} and marked(SOURCES["tfds"], Afterwards) == {
        "test"
    }
    assert marked(TrainingOptions, Afterwards) == {"workers"} and marked(CheckpointPolicy, Afterwards) == {
        "every_minutes"
    }
    assert marked(VIT, Afterwards) == marked(TASKS["classification"], Afterwards) == set()


def test_experiments_with_extreme_values_can_be_trained_or_say_why_not(tmp_path: Path):
    """A part of the cases, the largest whole numbers and odd texts; `tests.all_fields` trains all of them."""
    make_data(tmp_path)
    tried = refused = 0
    for number, (label, path, value) in enumerate(cases(tmp_path)):
        if not _extreme(label, path, value):
            continue
        config = base_config(label, tmp_path)
        put(config, path, value)
        folder = tmp_path / str(number)
        folder.mkdir()
        tried += 1
        try:
            check_before_training(build_experiment(from_json(to_json(config)), folder))
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 600, str(error)
        except Exception as error:
            raise AssertionError(f"{label}: {path} = {value!r} ends with {error!r}") from error
    assert tried > 60 and refused > 20


def _extreme(label: str, path: str, value: Any) -> bool:
    """Whether a value is the last of a range of whole numbers, or a text that means nothing."""
    slow = label == "mobilenet" or path.endswith(("num_layers", "decoder_layers", "depths", ".size", "seed"))
    largest = (
        type(value) is int
        and value >= 1000
        and value != 10**9
        and value + 1 not in ODD
        and math.log2(value + 1) % 1 != 0
    )
    return not slow and (largest or value == "x")
