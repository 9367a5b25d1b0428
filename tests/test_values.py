"""Values of configs: literals of the command line, text where text is meant, and the ranges of fields."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from flax import linen as nn
from ml_collections import ConfigDict

from research import config
from research.ranges import AFTERWARDS, Afterwards, Fraction, NotNegative, Positive, Rate, Seed, Size
from research.values import marked
from tests.test_config import refused, write

TEXTS = """
def get_config(arg):
    return ConfigDict({"data": {"path": "input.txt", "size": 3, "keys": None}, "task": {"tokenizer": {"kind": "bpe"}}})
"""


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("task.tokenizer", '{"kind": "word", "specials": false, "x": [null, 1e-3]}',
         {"kind": "word", "specials": False, "x": (None, 1e-3)}),
        ("task.tokenizer", "{'kind': 'word', 'specials': false, 'x': None}",
         {"kind": "word", "specials": False, "x": None}),
        ("data.path", "2024", "2024"),
        ("data.path", "true", "true"),
        ("data.path", "[1, 2]", "[1, 2]"),
        ("data.path", "1e5", "1e5"),
        ("data.path", "NONE", None),
        ("data.path", "'none'", "none"),
        ("data.path", '"2024"', "2024"),
        ("data.size", "1_000", 1000),
        ("data.keys", "2024", 2024),
        ("data.keys", "'2024'", "2024"),
        ("data.keys", "null", None),
        ("data.keys", r'"a\ud83d\ude00"', "a\U0001f600"),
        ("data.keys", "[" * 90_000, "[" * 90_000),
    ],
)  # fmt: skip
def test_overrides_are_json_or_python_and_text_where_there_is_text(
    tmp_path: Path, path: str, text: str, value: Any
) -> None:
    section, key = path.split(".")
    found = config.load(write(tmp_path, TEXTS), {path: text})[section][key]
    assert (found.to_dict() if isinstance(found, ConfigDict) else found) == value


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1_000", "'1_000' may be a number or text: write 1000, or quote it as \"'1_000'\""),
        ("0x10", "write 16, or quote it"),
        ("[" * 30 + "]" * 30, "nested more than 20 deep"),
        ('{"a": ' * 30 + "1" + "}" * 30, "nested more than 20 deep"),
        ("9" * 100_001, "a value of 100,001 characters is too long"),
    ],
)
def test_overrides_that_are_ambiguous_or_huge_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with refused(sentence):
        config.load(write(tmp_path, TEXTS), {"data.keys": text})


@dataclasses.dataclass(frozen=True)
class Plain:
    rate: Rate = 0.0


@dataclasses.dataclass(frozen=True)
class Ranged:
    rate: Rate = 0.0
    eps: Positive | None = None
    scale: tuple[Fraction, Fraction] = (0.0, 1.0)
    factors: Mapping[str, NotNegative] = dataclasses.field(default_factory=dict)
    seed: Annotated[Seed, AFTERWARDS] = 0
    path: str | None = None
    names: tuple[str, ...] = ()
    channels: Literal[1, 3] = 3
    inner: "Plain | None" = None


class RangedLayer(nn.Module):
    width: Size
    dropout: Rate = 0.0


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"rate": 2}, "a.rate is 2.0: use 0 or more and less than 1"),
        ({"rate": 1}, "a.rate is 1.0: use 0 or more and less than 1"),
        ({"rate": 1 - 1e-12}, "a.rate is 0.999999999999: use"),
        ({"rate": "x"}, "a.rate must be float, got 'x'"),
        ({"rate": 10**400}, "a.rate is 1000"),
        ({"eps": 0}, "a.eps is 0.0: use more than 0"),
        ({"eps": 1e-300}, "a.eps is 1e-300: use a number that float32 holds"),
        ({"eps": 1e300}, "a.eps is 1e+300: use a number that float32 holds"),
        ({"eps": "x"}, "a.eps must be float | None, got 'x'"),
        ({"scale": [0.5, 1.5]}, "a.scale[1] is 1.5: use 0 or more and at most 1"),
        ({"scale": 3}, "a.scale must be tuple[float, float], got 3"),
        ({"factors": {"head": -1}}, "a.factors.head is -1.0: use 0 or more"),
        ({"seed": -1}, "a.seed is -1: use 0 or more and at most 4,294,967,295"),
        ({"seed": 2**64}, "a.seed is 18446744073709551616: use a number that 64 bits hold"),
        ({"seed": True}, "a.seed must be int, got True"),
        ({"inner": {"rate": -1}}, "a.inner.rate is -1.0: use 0 or more"),
        ({"path": 1.5}, "a.path is the number 1.5: quote it"),
        ({"channels": True}, "a.channels must be Literal[1, 3], got True"),
        ({"path": ["x" * 10_000]}, "a.path must be str | None, got"),
    ],
)
def test_build_refuses_what_is_out_of_a_fields_range(section: dict[str, Any], sentence: str) -> None:
    with refused(sentence) as caught:
        config.build(Ranged, section, "a")
    assert len(str(caught.value)) < 300


def test_build_takes_the_ends_of_ranges_and_plain_numbers_as_text() -> None:
    section = {"rate": 0, "eps": 1e-30, "scale": [0, 1], "seed": 2**32 - 1, "path": 2024, "names": [1, "b"]}
    built = config.build(Ranged, section, "a")
    assert (built.rate, built.scale, built.seed, built.path, built.names) == (0, (0, 1), 2**32 - 1, "2024", ("1", "b"))
    assert config.build(RangedLayer, {"width": 2**20, "dropout": 0.5}, "model").width == 2**20
    for name, value in (("width", 0), ("width", -8), ("dropout", 1.5)):
        with refused(f"model.{name} is {value}: use "):
            config.build(RangedLayer, {"width": 8, name: value}, "model")


def test_fields_that_may_be_changed_afterwards_are_found_in_parts_too() -> None:
    @dataclasses.dataclass(frozen=True)
    class Outer:
        part: Ranged
        other: Ranged | None = None
        best: Annotated[str | None, AFTERWARDS] = None

    assert marked(Outer, Afterwards) == {"part.seed", "other.seed", "best"}
