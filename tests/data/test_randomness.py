"""No two uses of random numbers share any: measured in the pipeline of configs/vision/imagenet.py."""

import math
from pathlib import Path

import numpy as np
import pytest

from configs.vision.imagenet import get_config
from research.config import build
from research.data import randomness
from research.data.randomness import PURPOSES, generator
from research.data.transforms import geometry, policies
from research.tasks.classification import Classification

COUNT = 1500
ROOT = Path(__file__).resolve().parent.parent.parent


def pipeline(monkeypatch):
    """Of each of many images: mixup or cutmix, whether RandAugment left out its second operation, crop, rotation."""
    fields = get_config("tiny").task.to_dict()
    del fields["name"]
    fields["augmentation"] = {"rotate": 15.0}
    task = build(Classification, fields, "task")
    assert task.mixup and task.cutmix and task.photo.policy == "randaugment" and task.photo.num_ops == 2
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    images = task.rows([{"image": image, "label": 0}] * COUNT, train=True, seed=0)
    drawn, moves = [], []
    draw, move = policies.draw_operations, geometry.moved
    monkeypatch.setattr(policies, "draw_operations", lambda *args: drawn.append(draw(*args)) or drawn[-1])
    monkeypatch.setattr(geometry, "moved", lambda *args: moves.append(args[2]) or move(*args))
    cut, left_out, areas, angles = [], [], [], []
    for index in range(COUNT):
        batch = images.batch(np.array([index]), np.array([0]), None)
        top, left, bottom, right = batch["box"][0]
        cut.append((bottom - top) * (right - left) > 0)
        left_out.append(drawn[-1][1] is None)
        areas.append(moves[0][0] * moves[0][4])  # the crop is the first move of an image, the rotation the last
        angles.append(math.atan2(moves[-1][3], moves[-1][0]))
        moves.clear()
    assert len(drawn) == COUNT and np.ptp(angles) > math.radians(28)
    cut, left_out = np.array(cut), np.array(left_out)
    return left_out[~cut], left_out[cut], np.corrcoef(areas, angles)[0, 1]


def errors_from_half(values):
    """How many standard errors a share lies from 0.5."""
    return abs(values.mean() - 0.5) / (0.5 / math.sqrt(len(values)))


def test_mixing_policy_crop_and_rotation_are_independent(monkeypatch):
    mixed, cut, correlation = pipeline(monkeypatch)
    assert min(len(mixed), len(cut)) > 600
    assert errors_from_half(mixed) < 3 and errors_from_half(cut) < 3
    assert abs(correlation) < 3 / math.sqrt(COUNT)


def test_with_one_key_for_all_they_would_not_be(monkeypatch):
    monkeypatch.setattr(randomness, "PURPOSES", dict.fromkeys(PURPOSES, 0))
    mixed, cut, correlation = pipeline(monkeypatch)
    assert errors_from_half(mixed) > 10 and errors_from_half(cut) > 10 and correlation > 0.7


def test_draws_for_any_two_purposes_are_independent():
    assert len(set(PURPOSES.values())) == len(PURPOSES) and min(PURPOSES.values()) == 0
    draws = np.array([[generator(3, 1, index, purpose).random() for index in range(2000)] for purpose in PURPOSES])
    correlations = np.corrcoef(draws) - np.eye(len(PURPOSES))
    assert np.abs(correlations).max() < 4 / math.sqrt(2000)
    assert draws.mean() == pytest.approx(0.5, abs=0.02)


def test_keys_of_stored_runs_stay():
    for purpose, key in {"affine": (5, 2, 9), "jigsaw": (5, 2, 9, 1), "mask": (5, 2, 9, 2)}.items():
        assert generator(5, 2, 9, purpose).random() == np.random.default_rng(key).random()


def test_no_other_place_makes_keys():
    paths = [path for folder in ("data", "tasks") for path in (ROOT / "research" / folder).rglob("*.py")]
    found = {path.name for path in paths if "default_rng(" in path.read_text(encoding="utf-8")}
    # Plans and the windows of a text have keys of no example; the orders of a jigsaw are the same in every run;
    # generated examples are data, whose seed is the source's.
    generated = {"stories.py", "scenes.py", "listops.py", "algorithmic.py"}
    assert found == {"randomness.py", "plans.py", "pretext.py", "text.py"} | generated
