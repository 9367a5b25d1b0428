"""Strict configs: everything a config says is used, or refused in a sentence that names the key."""

import dataclasses
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from flax import linen as nn
from ml_collections import ConfigDict

from research import config
from research.errors import UserError


@dataclasses.dataclass(frozen=True)
class AdamW:
    learning_rate: float
    b1: float = 0.9
    steps: int = 10
    nesterov: bool = False
    decay: float | None = None
    betas: tuple[float, ...] = (0.9, 0.999)
    shape: tuple[int, int] = (1, 1)
    patterns: list[str] = dataclasses.field(default_factory=list)
    multipliers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    sizes: Sequence[int] = ()
    style: Literal["pre", "post"] = "pre"
    until: int | str = "end"
    amount: float | int = 0.5
    extra: Any = None


@dataclasses.dataclass(frozen=True)
class Sgd:
    momentum: float = 0.9


@dataclasses.dataclass(frozen=True)
class Outer:
    optimizer: AdamW
    others: tuple[Sgd, ...] = ()
    fallback: Sgd | None = None


class Layer(nn.Module):
    vocab_size: int
    width: int = 8
    activation: Callable[[Any], Any] = nn.relu
    rate: float = 0.0


def refused(*sentence: str) -> Any:
    """Expects a one-sentence UserError that contains every part."""
    return pytest.raises(UserError, match="".join(f"(?=.*{re.escape(part)})" for part in sentence) + r"[^\n]*\Z")


def write(folder: Path, body: str, name: str = "some.py") -> str:
    path = folder / name
    path.write_text(f"from ml_collections import ConfigDict\nfrom research import config\n{body}\n")
    return str(path)


PLAIN = """
def get_config(arg):
    c = ConfigDict({"optimizer": {"name": "adamw", "learning_rate": 1e-3, "betas": [0.9, 0.98]}, "arg": arg})
    c.model = {"width": 8, "decoder": {"depth": 2}}
    c.twice = c.model.get_ref("width") * 2
    return c.lock()
"""


def test_load_calls_get_config_with_the_argument(tmp_path: Path) -> None:
    path = write(tmp_path, PLAIN)
    assert config.load(path).arg == ""
    loaded = config.load(f"{path}:size=gpu,tiny")
    assert loaded.arg == "size=gpu,tiny"
    assert loaded.optimizer.betas == (0.9, 0.98)
    assert loaded.twice == 16


def test_load_of_two_files_of_one_name_and_of_a_dataclass_inside(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        body = f"import dataclasses\n@dataclasses.dataclass\nclass C:\n    x: 'int' = {value}\n"
        path = write(tmp_path / name, body + "def get_config(arg):\n    return ConfigDict({'x': C().x})")
        assert config.load(path).x == value
    config.load(write(tmp_path, PLAIN, "json.py"))
    assert sys.modules["json"] is json, "a config file must not take a library's place"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("12", 12),
        ("true", True),
        ("False", False),
        ("none", None),
        ("[1, 2]", (1, 2)),
        ("B/16", "B/16"),
        ("en-fr", "en-fr"),
        ("'7'", "7"),
        (0.5, 0.5),
    ],
)
def test_overrides_are_literals_or_text(tmp_path: Path, text: Any, value: Any) -> None:
    loaded = config.load(write(tmp_path, PLAIN), {"optimizer.learning_rate": text})
    assert loaded.optimizer.learning_rate == value
    assert type(loaded.optimizer.learning_rate) is type(value)


def test_overrides_reach_nested_sections_new_keys_and_references(tmp_path: Path) -> None:
    overrides = {"model.decoder.depth": "3", "model.num_heads": "4", "seed": "1", "model.width": "10"}
    loaded = config.load(write(tmp_path, PLAIN), overrides)
    assert loaded.model.to_dict() == {"width": 10, "decoder": {"depth": 3}, "num_heads": 4}
    assert (loaded.seed, loaded.twice) == (1, 20)


def test_overrides_of_unknown_sections_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, PLAIN)
    with refused("no section optimzer", "did you mean optimizer?", "model"):
        config.load(path, {"optimzer.learning_rate": "1"})
    added = config.load(path, {"model.every.steps": "1"})  # `build` knows whether model takes it
    assert added.model.every.to_dict() == {"steps": 1}
    with refused("no section model.width"):
        config.load(path, {"model.width.x": "1"})
    with refused("optimizer.learning_rate is inf"):
        config.load(path, {"optimizer.learning_rate": "1e999"})


def test_load_of_a_missing_file_names_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs/vision").mkdir(parents=True)
    write(tmp_path, PLAIN, "configs/vision/digits.py")
    for spec in ("configs/vision/digit.py:tiny", "configs/vision/digits", "configs/digits.py"):
        with refused("there is no config file configs/", "did you mean configs/vision/digits.py?"):
            config.load(spec)
    with refused("there is no config file configs:"):
        config.load("configs")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("x = 1", "has no get_config"),
        ("def get_config(arg):\n    return {}", "returned a dict: return a ConfigDict"),
        ("import nowhere_to_be_found", "some.py:3 fails with ModuleNotFoundError: No module named"),
        ("def get_config(arg):\n    return 1 / 0", "some.py:4 fails with ZeroDivisionError: division"),
        ("def get_config(arg)\n    return 1", "fails with SyntaxError: expected ':'"),
        ("def get_config():\n    return ConfigDict()", "fails with TypeError"),
        ("def get_config(arg):\n    return ConfigDict({'a': {'b': float('nan')}})", "a.b is nan"),
        ("def get_config(arg):\n    return ConfigDict({'a': {'b': len}})", "a.b is <built-in function len>"),
    ],
)
def test_load_of_a_failing_file_names_it(tmp_path: Path, body: str, sentence: str) -> None:
    with refused(sentence):
        config.load(write(tmp_path, body))


def test_load_passes_user_errors_of_the_file_through(tmp_path: Path) -> None:
    path = write(tmp_path, "def get_config(arg):\n    return config.argument(arg, tiny=False)")
    assert config.load(f"{path}:tiny").tiny is True
    with pytest.raises(UserError, match=r"^'tinny' is not an argument of this config: did you mean tiny\?"):
        config.load(f"{path}:tinny")


def test_argument() -> None:
    defaults = {"tiny": False, "size": ("cpu", "gpu"), "heads": (8, 16), "steps": 10, "rate": 0.1, "language": "fr"}
    assert config.argument("", **defaults).to_dict() == defaults | {"size": "cpu", "heads": 8}
    parsed = config.argument("size=gpu,tiny,heads=16,steps=3,rate=1,language=1", **defaults)
    assert parsed.to_dict() == dict(tiny=True, size="gpu", heads=16, steps=3, rate=1.0, language="1")
    assert isinstance(parsed.rate, float) and isinstance(parsed.heads, int)
    assert config.argument("tiny=false", **defaults).tiny is False


@pytest.mark.parametrize(
    ("arg", "sentence"),
    [
        (
            "sise=gpu",
            "'sise' is not an argument of this config: did you mean size? (arguments: tiny, size, steps, rate",
        ),
        ("gpu", "'gpu' is not an argument of this config: use one of"),
        ("tiny,,", "'' is not an argument"),
        ("size=gpuu", "argument size is 'gpuu': did you mean gpu? (size: cpu, gpu)"),
        ("size", "argument size is None: use one of the valid names (size: cpu, gpu)"),
        ("steps=1.5", "argument steps must be int, got 1.5"),
        ("steps", "argument steps must be int"),
        ("steps=", "argument steps must be int"),
        ("rate=fast", "argument rate must be float, got 'fast'"),
        ("rate=1e999", "argument rate is inf: use a finite number"),
        ("language", "argument language must be str"),
        ("tiny=2", "argument tiny must be bool, got 2"),
        ("tiny,tiny", "argument tiny is given twice"),
    ],
)
def test_argument_refuses(arg: str, sentence: str) -> None:
    with refused(sentence):
        config.argument(arg, tiny=False, size=("cpu", "gpu"), steps=10, rate=0.1, language="fr")


def test_build_converts_integers_and_sequences_only() -> None:
    section = ConfigDict(
        {
            "learning_rate": 1,
            "decay": 2,
            "betas": [1, 0.5],
            "shape": [3, 4],
            "patterns": ("a", "b"),
            "multipliers": {"head": 2},
            "sizes": [1, 2],
            "style": "post",
            "until": 5,
            "amount": 7,
            "extra": [1, [2.5]],
        }
    )
    built = config.build(AdamW, section, "optimizer")
    assert built == AdamW(
        learning_rate=1.0,
        decay=2.0,
        betas=(1.0, 0.5),
        shape=(3, 4),
        patterns=["a", "b"],
        multipliers={"head": 2.0},
        sizes=(1, 2),
        style="post",
        until=5,
        amount=7,
        extra=(1, (2.5,)),
    )
    assert all(isinstance(x, float) for x in (built.learning_rate, built.decay, *built.betas))
    assert isinstance(built.multipliers["head"], float) and isinstance(built.until, int)
    assert isinstance(built.amount, int), "a union's exact member goes before a conversion"
    assert config.build(AdamW, {"learning_rate": 0.1, "decay": None}, "").decay is None


def test_build_of_nested_dataclasses() -> None:
    section = {"optimizer": {"learning_rate": 0.1}, "others": [{"momentum": 0}, {}], "fallback": {"momentum": 0.5}}
    assert config.build(Outer, section, "outer") == Outer(AdamW(0.1), (Sgd(0.0), Sgd()), Sgd(0.5))
    with refused("outer.optimizer.lr is not a field of AdamW"):
        config.build(Outer, {"optimizer": {"lr": 0.1}}, "outer")
    with refused("outer.others[1].momentum must be float, got 'x'"):
        config.build(Outer, section | {"others": [{}, {"momentum": "x"}]}, "outer")
    with refused("outer.fallback.momentun is not a field of Sgd: did you mean momentum?"):
        config.build(Outer, section | {"fallback": {"momentun": 1}}, "outer")
    with refused("outer.optimizer must be", "AdamW", "got 3"):
        config.build(Outer, {"optimizer": 3}, "outer")


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"lerning_rate": 1}, "optimizer.lerning_rate is not a field of AdamW: did you mean learning_rate? (fields: "),
        ({"name": "adamw"}, "optimizer.name is not a field of AdamW"),
        ({}, "optimizer.learning_rate is missing: AdamW needs it (float)"),
        ({"learning_rate": "1e-3"}, "optimizer.learning_rate must be float, got '1e-3'"),
        ({"learning_rate": True}, "optimizer.learning_rate must be float, got True"),
        ({"learning_rate": None}, "optimizer.learning_rate must be float, got None"),
        ({"learning_rate": math.nan}, "optimizer.learning_rate is nan: use a finite number"),
        ({"decay": math.inf}, "optimizer.decay is inf"),
        ({"decay": "0.1"}, "optimizer.decay must be float | None, got '0.1'"),
        ({"steps": True}, "optimizer.steps must be int, got True"),
        ({"steps": 1.0}, "optimizer.steps must be int, got 1.0"),
        ({"until": True}, "optimizer.until must be int | str, got True"),
        ({"nesterov": 1}, "optimizer.nesterov must be bool, got 1"),
        ({"betas": 0.9}, "optimizer.betas must be tuple[float, ...], got 0.9"),
        ({"betas": [0.9] * 50 + ["x"]}, "optimizer.betas[50] must be float, got 'x'"),
        ({"shape": [1, 2, 3]}, "optimizer.shape must have 2 values, got 3: (1, 2, 3)"),
        ({"sizes": [1, True]}, "optimizer.sizes[1] must be int"),
        ({"patterns": "abc"}, "optimizer.patterns must be list[str], got 'abc'"),
        ({"multipliers": {"head": "x"}}, "optimizer.multipliers.head must be float"),
        ({"style": "prenorm"}, "optimizer.style must be Literal['pre', 'post'], got 'prenorm'"),
        ({"extra": [{"deep": math.nan}]}, "optimizer.extra[0].deep is nan"),
    ],
)
def test_build_refuses(section: dict[str, Any], sentence: str) -> None:
    given = {} if section == {} or "learning_rate" in section else {"learning_rate": 0.1}
    with refused(sentence):
        config.build(AdamW, section, "optimizer", **given)


def test_build_refuses_what_is_no_section() -> None:
    with refused("optimizer must be a section with the fields of AdamW, got 3"):
        config.build(AdamW, 3, "optimizer")


def test_build_of_a_linen_module_with_given_values() -> None:
    layer = config.build(Layer, {"width": 16, "rate": 0}, "model", vocab_size=100, of_no_use=object())
    assert (layer.vocab_size, layer.width, layer.rate, layer.activation) == (100, 16, 0.0, nn.relu)
    assert config.build(Layer, {"vocab_size": 100}, "model", vocab_size=100).vocab_size == 100
    with refused("model.vocab_size is 99 but must be 100"):
        config.build(Layer, {"vocab_size": 99}, "model", vocab_size=100)
    for hidden in ("name", "parent"):
        with refused(f"model.{hidden} is not a field of Layer", "(fields: vocab_size, width, activation, rate)"):
            config.build(Layer, {"vocab_size": 1, hidden: None}, "model")


def test_choose() -> None:
    table = {"adamw": AdamW, "sgd": Sgd}
    section = ConfigDict({"name": "sgd", "momentum": 0.5})
    assert config.choose(table, section, "optimizer") == Sgd(0.5)
    assert section.name == "sgd"
    assert config.choose(table, {"name": "adamw"}, "optimizer", learning_rate=0.1) == AdamW(0.1)
    with refused("optimizer.name is 'adam': did you mean adamw? (names: adamw, sgd)"):
        config.choose(table, {"name": "adam"}, "optimizer")
    with refused("optimizer.name is None: use one of the valid names (names: adamw, sgd)"):
        config.choose(table, {"momentum": 1}, "optimizer")
    with refused("optimizer.name is ('sgd', {})"):
        config.choose(table, {"name": ["sgd", {}]}, "optimizer")
    with refused("optimizer must be a section"):
        config.choose(table, "sgd", "optimizer")
    with refused("optimizer.momentun is not a field of Sgd"):
        config.choose(table, {"name": "sgd", "momentun": 1}, "optimizer")


def test_json_round_trip_and_diff(tmp_path: Path) -> None:
    loaded = config.load(write(tmp_path, PLAIN))
    again = config.from_json(config.to_json(loaded))
    assert again == loaded and again.optimizer.betas == (0.9, 0.98)
    assert config.diff(loaded, again) == []

    raw = {"a": {"b": [1, {"c": (2,)}], "d": None}, "e": {}}
    assert config.from_json(config.to_json(raw)).to_dict() == {"a": {"b": (1, {"c": (2,)}), "d": None}, "e": {}}
    other = {"a": {"b": [1, {"c": (3,)}], "new": 1}, "e": {"f": 2}}
    assert config.diff(raw, other) == [
        ("a.b", (1, {"c": (2,)}), (1, {"c": (3,)})),
        ("a.d", None, config.ABSENT),
        ("a.new", config.ABSENT, 1),
        ("e", {}, config.ABSENT),
        ("e.f", config.ABSENT, 2),
    ]


def test_json_refuses_what_it_cannot_hold() -> None:
    with refused("a.b is inf: use a finite number"):
        config.to_json({"a": {"b": math.inf}})
    for text in ("{broken", "3", "[1]"):
        with refused("the stored config is not a JSON object"):
            config.from_json(text)
