"""Strict configs: a config file becomes a ConfigDict, and each of its sections becomes one dataclass.

Whatever a config says is used or refused: unknown, misspelt, missing and wrongly typed keys are `UserError`s that name
the key and the nearest valid ones. Lists and tuples are one thing here (a loaded config holds tuples), so that a config
equals itself after a round trip through JSON.
"""

import contextlib
import dataclasses
import difflib
import importlib.util
import json
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flax import linen as nn
from ml_collections import ConfigDict, FieldReference

from research.errors import UserError
from research.files import read_json
from research.plugins import allow_named, imported
from research.ranges import Nested
from research.values import convert, described, literal, override, shown

type Section = Mapping[str, Any] | ConfigDict
type Build = Callable[[type, Any, str], Any]
ABSENT = "(absent)"


def suggestion(word: str, options: Iterable[str], noun: str = "valid") -> str:
    """The second half of an error about an unknown `word`: "did you mean adam? (valid: adam, sgd)"."""
    options = list(options)
    near = difflib.get_close_matches(word, options, n=1)
    listed = f"({noun}: {', '.join(options) or 'none'})"
    return f"did you mean {near[0]}? {listed}" if near else f"use one of the valid names {listed}"


OPTIONAL = ("mesh", "checkpoint", "tracker")
"""Sections whose every value has a default."""


def load(spec: str, overrides: Mapping[str, Any] | None = None) -> ConfigDict:
    """The config of `spec` ("path.py", or "path.py:argument" for `get_config(argument)`) with overrides applied.

    `overrides` maps dotted paths ("optimizer.learning_rate") to values; text is read as a literal of JSON or Python
    where it is one ("3e-4", "[1, 2]", "true", "none") and stays text otherwise, and where the config has text. A path
    may add to a section, but adds no section itself other than those of `OPTIONAL`.
    Raises `UserError` for a missing or failing file, an unknown section, and values that JSON cannot hold.
    """
    path, arg = _config_file(spec)
    with _blamed_on(path):
        get_config = getattr(_import_file(path), "get_config", None)
        if get_config is None:
            raise UserError(f"{path} has no get_config: define get_config(arg: str) that returns a ConfigDict")
        if not isinstance(config := get_config(arg), ConfigDict):
            raise UserError(f"get_config of {path} returned a {type(config).__name__}: return a ConfigDict")
        apply_overrides(config, overrides or {})
        allow_named(_plain(config))
        return from_json(to_json(config))


def apply_overrides(config: ConfigDict, overrides: Mapping[str, Any]) -> None:
    """Changes a config by the overrides of `load`; what refers to a changed value follows."""
    for key, value in overrides.items():
        if (section := key.partition(".")[0]) in OPTIONAL and section not in config:
            config[section] = ConfigDict()
        _override(config, key, value)


def load_sweep(spec: str) -> dict[str, Any]:
    """What `sweep()` of the config file returns (`research.search_space`), {} where it has none. Raises UserError."""
    path, _ = _config_file(spec)
    with _blamed_on(path):
        sweep = getattr(_import_file(path), "sweep", dict)
        return dict(sweep())


def argument(arg: str, /, **defaults: Any) -> ConfigDict:
    """Parses a config's argument ("tiny", "size=gpu,tiny") into one value for each name of `defaults`.

    A default says what is valid: a bool is switched on by its bare name, a tuple lists the choices (the first is the
    default), a number asks for a number of its type. Raises `UserError` for anything else.
    """
    values = {}
    for part in arg.split(",") if arg else ():
        name, separator, text = part.partition("=")
        if name not in defaults:
            raise UserError(f"{name!r} is not an argument of this config: {suggestion(name, defaults, 'arguments')}")
        if name in values:
            raise UserError(f"the config argument {name} is given twice: keep one of them")
        values[name] = _argument_value(name, text if separator else None, defaults[name])
    first = {name: default[0] if isinstance(default, tuple) else default for name, default in defaults.items()}
    return ConfigDict(first | values)


def build[T](cls: type[T], section: Section | None, where: str, **given: Any) -> T:
    """An instance of the dataclass (or Linen module) `cls` whose fields are the keys of `section`, strictly checked.

    `where` is the section's dotted path, for the errors. Integers serve as floats, lists as tuples, nested sections as
    nested dataclasses; a bool is not an integer and NaN is not a number. `given` are values that the program knows (the
    tokenizer's vocab_size): those that `cls` has no field for are left out, and a config that contradicts one is an
    error. Raises `UserError`.
    """
    return _built(cls, section, where, build, given)


def _built[T](cls: type[T], section: Section | None, where: str, nested: Build, given: Mapping[str, Any]) -> T:
    values, fields, hints = _read(cls, section, where, nested)
    for key, value in given.items():
        if key in values and values[key] != value:
            raise UserError(
                f"{_join(where, key)} is {shown(values[key])} but must be {value!r}: remove it from the config"
            )
    values |= {key: value for key, value in given.items() if key in fields}
    for key, field in fields.items():
        if key not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise UserError(f"{_join(where, key)} is missing: {cls.__name__} needs it ({described(hints[key])})")
    return cls(**values)


def choose(table: Mapping[str, type], section: Section | None, where: str, **given: Any) -> Any:
    """`build`s the class of `table` that the section's `name` picks from the section's other keys.

    given: values that only the program knows; "text.vocab_size" is one of the section `text` within this one.
    """
    cls, section = pick(table, section, where)
    own = {key: value for key, value in given.items() if "." not in key}
    return _built(cls, section, where, _within(table, given), own)


def _within(table: Mapping[str, type], given: Mapping[str, Any] | None = None) -> Build:
    """`build`, for which sections within a section of the table name classes of the same table."""

    def nested(cls: type, section: Any, where: str) -> Any:
        if cls is not Nested:
            return build(cls, section, where)
        prefix = f"{where.rpartition('.')[2]}."
        inner = {key.removeprefix(prefix): value for key, value in (given or {}).items() if key.startswith(prefix)}
        return choose(table, section, where, **inner)

    return nested


def check(table: Mapping[str, type], section: Section | None, where: str) -> None:
    """Refuses what `choose` would refuse, except for fields that are missing and what the class itself checks.

    For sections whose class needs values that only the program knows. Raises `UserError`.
    """
    cls, section = pick(table, section, where)
    _read(cls, section, where, _within(table))


def to_json(config: Section) -> str:
    """The config as indented JSON. Raises `UserError` for a value that JSON cannot hold (NaN, a function)."""
    plain = _plain(config)
    for path, value in _leaves(plain):
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{path} is {shown(value)}: use a finite number, text, true, false, none or a list"
            ) from error
    return json.dumps(plain, indent=2)


def from_json(text: str) -> ConfigDict:
    """The config that `to_json` wrote. Raises `UserError` if the text is not a JSON object."""
    try:
        return ConfigDict(_plain({**json.loads(text)}))
    except (ValueError, TypeError) as error:
        raise UserError(f"the stored config is not a JSON object ({error}): restore it from a copy") from error


def read_config(path: Path) -> ConfigDict:
    """The config that a run's folder stores. Raises UserError for a file that does not hold one."""
    return ConfigDict(_plain(read_json(path)))


def diff(a: Section, b: Section) -> list[tuple[str, Any, Any]]:
    """Where two configs differ: (dotted path, value in a, value in b), with `ABSENT` for a key that is not there."""
    left, right = dict(_leaves(_plain(a))), dict(_leaves(_plain(b)))
    pairs = [(path, left.get(path, ABSENT), right.get(path, ABSENT)) for path in sorted({*left, *right})]
    return [pair for pair in pairs if pair[1] != pair[2]]


def pick(table: Mapping[str, type], section: Section | None, where: str) -> tuple[type, Any]:
    """The class that the section's `name` picks, and the section's other keys.

    A name is one of the table, or "package.module:Class" (`research.plugins`). Raises `UserError`.
    """
    section = _plain(section)
    name = section.pop("name", None) if isinstance(section, dict) else section
    if isinstance(name, str) and ":" in name:
        return imported(name, _join(where, "name")), section
    if name not in list(table):
        raise UserError(f"{_join(where, 'name')} is {shown(name)}: {suggestion(str(name), table, 'names')}")
    return table[name], section


def _read(
    cls: type, section: Section | None, where: str, nested: Build
) -> tuple[dict[str, Any], dict[str, dataclasses.Field], Any]:
    """The section's values converted to the types of the fields of `cls`, those fields, and their types."""
    section = _plain(section)
    if not isinstance(section, dict):
        raise UserError(f"{where} must be a section with the fields of {cls.__name__}, got {shown(section)}")
    hidden = ("parent", "name") if issubclass(cls, nn.Module) else ()
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init and field.name not in hidden}
    hints = typing.get_type_hints(cls, include_extras=True)
    for key in section:
        if key not in fields:
            hint = suggestion(key, fields, "fields")
            raise UserError(f"{_join(where, key)} is not a field of {cls.__name__}: {hint}")
    values = {key: convert(value, hints[key], _join(where, key), nested) for key, value in section.items()}
    return values, fields, hints


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _plain(value: Any) -> Any:
    """Dicts, tuples and values in place of ConfigDicts, lists and field references."""
    if isinstance(value, FieldReference):
        value = value.get()
    if isinstance(value, ConfigDict | Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _leaves(plain: dict[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in plain.items():
        path = _join(where, key)
        yield from _leaves(value, path) if isinstance(value, dict) and value else [(path, value)]


def _config_file(spec: str) -> tuple[Path, str]:
    """The file and the argument of "path.py:argument"."""
    file, separator, arg = spec.partition(".py:")
    path = Path(file + ".py" if separator else file)
    if path.suffix != ".py" or not path.is_file():
        files = sorted({*map(str, path.parent.glob("*.py")), *map(str, Path("configs").rglob("*.py"))})
        near = difflib.get_close_matches(str(path), files)
        raise UserError(f"there is no config file {path}: {suggestion(str(path), near or files, 'configs')}")
    return path, arg


@contextlib.contextmanager
def _blamed_on(path: Path) -> Iterator[None]:
    """Whatever the file does wrong becomes a UserError that names the file and its line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        frames = reversed(traceback.extract_tb(error.__traceback__))
        line = next((f":{frame.lineno}" for frame in frames if Path(frame.filename).name == path.name), "")
        raise UserError(f"{path}{line} fails with {type(error).__name__}: {error}") from error


def _import_file(path: Path) -> types.ModuleType:
    name = "config_file_" + re.sub(r"\W", "_", str(path.resolve()))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # the path ends with ".py"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses defined in the file look their module up
    spec.loader.exec_module(module)
    return module


def _override(config: ConfigDict, path: str, value: Any) -> None:
    section, (*sections, key) = config, path.split(".")
    for depth, name in enumerate(sections):
        if depth and section.get(name) is None:  # such as checkpoint.every; what does not exist is found by `build`
            with section.unlocked():
                section[name] = ConfigDict()
        if not isinstance(section.get(name), ConfigDict):
            known = [name for name, item in section.items() if isinstance(item, ConfigDict)]
            hint = suggestion(name, known, "sections")
            raise UserError(f"{path}: the config has no section {'.'.join(sections[: depth + 1])}: {hint}")
        section = section[name]
    with section.unlocked(), section.ignore_type():
        if isinstance(value, str):
            value = override(value, section.get(key))
        if key in section and not isinstance(dict(section.items(preserve_field_references=True))[key], FieldReference):
            del section[key]  # assigning over it would cast true to 1.0
        section[key] = value


def _argument_value(name: str, text: str | None, default: Any) -> Any:
    if not isinstance(default, tuple):
        value = True if text is None else text if isinstance(default, str) else literal(text)
        return convert(value, type(default), f"the config argument {name}", build)
    choices = {str(choice): choice for choice in default}
    if text not in choices:
        raise UserError(f"the config argument {name} is {text!r}: {suggestion(str(text), choices, name)}")
    return choices[text]
