"""Every field of every config class, with values of all kinds made from its annotation: an object or one sentence."""

import dataclasses
import functools
import math
import typing
from typing import Any

import pytest

from research.config import build, choose
from research.data.tokenizer import Tokenizer
from research.data.transforms.geometry import Augmentation
from research.data.transforms.photo import PhotoAugmentation
from research.errors import UserError
from research.parallel.mesh import MeshShape
from research.ranges import Range, marks
from research.runs.tables import MODELS, SOURCES, TASKS
from research.training.checkpoints import CheckpointPolicy
from research.training.durations import Duration, Interval
from research.training.optimizers import OPTIMIZERS
from research.training.run import TrainingOptions
from research.training.schedules import SCHEDULES
from research.training.transfer import Transfer

CLASSES = dict.fromkeys(
    [
        *(cls for table in (SOURCES, TASKS, MODELS, OPTIMIZERS, SCHEDULES) for cls in table.values()),
        *(TrainingOptions, CheckpointPolicy, MeshShape, Transfer, Tokenizer, Augmentation, PhotoAugmentation, Duration),
    ]
)
VALUES = (-1, 0, 10**9, 10**30, 10**400, 1e300, -1e300, math.nan, math.inf, -math.inf, "x", "", [], {}, None, True)
VALUES += ([[-1]], ["x"], {"x": 1}, {"name": "x"}, "[" * 200, -0.0, 2**63, {"steps": 1e300}, {"steps": -1})
GIVEN: dict[Any, Any] = {
    int: 4, float: 0.5, str: "x", bool: True, tuple: (), dict: {},
    Duration: {"steps": 1}, Interval: {"steps": 1}, Tokenizer: {"kind": "word"}
}  # fmt: skip
"""A value for each kind of field that has no default."""
NAMED = {"classes": ("x",)}
"""The same by the fields' names."""


@functools.cache
def hints_of(cls: type) -> dict[str, Any]:
    hidden = {"parent", "name", "vocabulary", "target_vocabulary"}
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.name not in hidden}


def base(hint: Any) -> Any:
    """The plain type in an annotation, the first where there are several."""
    args = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Annotated:
        return base(args[0])
    if typing.get_origin(hint) is typing.Literal:
        return hint
    return base(args[0]) if args and typing.get_origin(hint) not in (tuple, dict) else typing.get_origin(hint) or hint


def needed(cls: type) -> dict[str, Any]:
    """Values for the fields without a default."""
    found = {}
    for field in dataclasses.fields(cls):
        if field.name in hints_of(cls) and field.default is field.default_factory is dataclasses.MISSING:
            kind = base(hints_of(cls)[field.name])
            literal = typing.get_origin(kind) is typing.Literal
            given = NAMED.get(field.name, GIVEN.get(kind, ()))
            found[field.name] = typing.get_args(kind)[0] if literal else given
    return found


def values_for(hint: Any) -> list[Any]:
    """Of all kinds, and both ends of each range with what lies beyond them."""
    ranges = [mark for mark in marks(hint) if isinstance(mark, Range)]
    ends = [end for one in ranges for end in (one.low, one.high) if math.isfinite(end)]
    return [*VALUES, *ends, *(end + step for end in ends for step in (-1, 1)), *(end * 1.0001 for end in ends)]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_any_value_gives_an_object_or_one_sentence(cls):
    accepted = refused = 0
    for name, hint in hints_of(cls).items():
        for value in values_for(hint):
            try:
                choose({"own": cls}, {"name": "own", **needed(cls), name: value}, "section")
                accepted += 1
            except UserError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 1000, (name, str(error)[:2000])
    assert refused > accepted / 4  # most of the values are meant to be wrong


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_what_lies_outside_of_a_range_is_refused(cls):
    for name, hint in hints_of(cls).items():
        for one in (mark for mark in marks(hint) if isinstance(mark, Range)):
            low = one.low if one.above else one.low - 1
            high = one.high if one.below else one.high * 2 + 1
            for value in (low, high):
                if -(2.0**63) < value < 2.0**63 and base(hint) in (int, float):
                    with pytest.raises(UserError, match=name):
                        build(cls, needed(cls) | {name: base(hint)(value)}, "section")


def test_every_number_has_a_range():
    free = {
        f"{cls.__name__}.{name}"
        for cls in CLASSES
        for name, hint in hints_of(cls).items()
        if base(hint) in (int, float) and not any(isinstance(mark, Range) for mark in marks(hint))
    }
    assert free <= {"MeshShape.data", "MeshShape.fsdp", "MeshShape.tensor", "MeshShape.sequence"}  # -1 is the rest
