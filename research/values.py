"""Values as the types of fields say: text from the command line to literals, and values to a field's type and range."""

import ast
import contextlib
import dataclasses
import functools
import json
import math
import operator
import types
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from inspect import formatannotation
from typing import Annotated, Any, Literal, NoReturn, Union

from beartype.door import is_bearable

from research.errors import UserError
from research.ranges import NESTED, Expression, Nested, Range, marks

LONGEST = 100_000
"""Characters of a value on the command line."""
DEEPEST = 20
"""Lists and sections within each other."""
WORDS = {"true": True, "false": False, "none": None, "null": None}


def literal(text: str) -> Any:
    """Text as the literal of JSON or Python that it is ('3e-4', '[1, 2]', '{"a": true}'), else the text itself.

    true, false, none and null count in any case. Raises UserError for text that is too long or nested too deeply.
    """
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    if len(text) > LONGEST:
        raise UserError(f"a value of {len(text):,} characters is too long: use at most {LONGEST:,}")
    value = _parsed(text)
    if _deeper(value, DEEPEST):
        raise UserError(f"the value {shown(text)} is nested more than {DEEPEST} deep: use fewer levels")
    return value


def override(text: str, present: Any) -> Any:
    """What the text of an override stands for where the config has the value `present`.

    It is a literal, except that text stays text; there only none and a quoted literal ("'none'") are read as such.
    Raises UserError as `literal`, and for whole numbers whose spelling would be lost where they are meant as text.
    """
    quoted = len(text) > 1 and text[0] in "'\"" and text[-1] == text[0]
    if isinstance(present, str) and not quoted and text.lower() not in ("none", "null"):
        return text
    value = literal(text)
    if type(value) is int and present is None and str(value) != text:
        raise UserError(f"{shown(text)} may be a number or text: write {value}, or quote it as \"'{text}'\"")
    return value


class _Words(ast.NodeTransformer):
    """JSON's words among Python's quotes."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(WORDS[node.id]) if node.id in WORDS else node


def _parsed(text: str) -> Any:
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text, parse_constant=_refuse)
    with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unknown escapes in what may be no literal at all
            tree = ast.parse(text.strip(), mode="eval")
        value = ast.literal_eval(_Words().visit(tree))
        return value if isinstance(value, str | int | float | list | tuple | dict) else text
    return text


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, list | tuple | dict):
        return False
    items = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(item, levels - 1) for item in items)


def shown(value: Any) -> str:
    """A value for a message: its literal, on one line and not long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more than 4,300 digits
        text = f"a {type(value).__name__} too long to be written"
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text):,} characters)"


def described(hint: Any) -> str:
    """A type for a message, without its ranges: "float | None"."""
    bare = _bare(hint)
    arms = typing.get_args(bare) if typing.get_origin(bare) in (Union, types.UnionType) else ()
    if any(typing.get_origin(arm) is Literal for arm in arms):
        return " or ".join(map(_words, arms))
    return formatannotation(bare)


def _words(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return ", ".join(map(repr, typing.get_args(hint)))
    return "None" if hint is types.NoneType else described(hint)


def _bare(hint: Any) -> Any:
    """A type without what `Annotated` says of it and of its parts."""
    kind, args = typing.get_origin(hint), typing.get_args(hint)
    if kind is Annotated:
        return _bare(args[0])
    if kind in (Union, types.UnionType):
        return functools.reduce(operator.or_, map(_bare, args))
    return hint if kind is None or not marks(hint) else kind[tuple(map(_bare, args))]


def marked(cls: type, kind: type) -> set[str]:
    """The fields of a dataclass with a mark of this kind, those of its nested dataclasses as dotted paths."""
    found = set()
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        if any(isinstance(mark, kind) for mark in marks(hint)):
            found.add(name)
        for arm in (hint, *typing.get_args(hint)):
            if isinstance(arm, type) and dataclasses.is_dataclass(arm):
                found |= {f"{name}.{inner}" for inner in marked(arm, kind)}
    return found


def convert(value: Any, hint: Any, where: str, build: Callable[[type, Any, str], Any]) -> Any:
    """`value` as an instance of the type `hint` and within its `Range`s, or a UserError that names `where`.

    The only conversions are whole numbers to floats and, where text is wanted, to text, and sequences.
    build: makes a nested dataclass of its section; arguments (class, section, where).
    """
    if typing.get_origin(hint) is Annotated:
        inner, *found = typing.get_args(hint)
        if NESTED in found:
            return _nested(value, where, build)
        value = convert(value, inner, where, build)
        for mark in found:
            # A traced number of trials in one program has no value to compare; each trial's own config was checked.
            if isinstance(mark, Range | Expression) and type(value) in (int, float, str) and value not in mark:
                raise UserError(f"{where} is {shown(value)}: use {mark.remedy(value)}")
        return value
    _check_number(value, where)
    kind, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (Union, types.UnionType):
        return _convert_union(value, hint, where, build)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return build(hint, value, where)
    if isinstance(value, dict) and kind in (dict, Mapping, Any):
        name, part = args or (Any, Any)
        keys = {key: convert(key, name, f"a key of {where}", build) for key in value}
        return {keys[key]: convert(item, part, f"{where}.{key}", build) for key, item in value.items()}
    if isinstance(value, tuple) and kind in (tuple, list, Sequence, Any):
        fixed = kind is tuple and args and args[-1] is not ...
        hints = args if fixed else (args[0] if args else Any,) * len(value)
        if len(hints) != len(value):
            raise UserError(f"{where} must have {len(hints)} values, got {len(value)}: {shown(value)}")
        items = (convert(value[i], hints[i], f"{where}[{i}]", build) for i in range(len(value)))
        return list(items) if kind is list else tuple(items)
    if hint in (float, str) and type(value) is int:
        return hint(value)
    if hint is str and isinstance(value, float):
        raise UserError(f"{where} is the number {value}: quote it as \"'...'\" to make it text")
    exact = any(type(value) is type(arg) and value == arg for arg in args)  # True is no 1
    fits = exact if kind is Literal else is_bearable(value, hint) and not (hint is int and isinstance(value, bool))
    if not fits:
        raise UserError(f"{where} must be {described(hint)}, got {shown(value)}")
    return value


def _nested(value: Any, where: str, build: Callable[[type, Any, str], Any]) -> Any:
    """The instances of sections that name their classes themselves: of one, or of each of a sequence."""
    if isinstance(value, tuple):
        return tuple(_nested(item, f"{where}[{number}]", build) for number, item in enumerate(value))
    return build(Nested, value, where)


def _check_number(value: Any, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where} is {value}: use a finite number")
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise UserError(f"{where} is {shown(value)}: use a number that 64 bits hold")


def _convert_union(value: Any, hint: Any, where: str, build: Callable[[type, Any, str], Any]) -> Any:
    converted, deeper = [], []
    for arm in typing.get_args(hint):
        try:
            converted.append(convert(value, arm, where, build))
        except UserError as error:
            if not str(error).startswith(f"{where} must be"):
                deeper.append(error)
    if converted:  # an arm that takes the value as it is goes before one that converts it
        return next((item for item in converted if type(item) is type(value)), converted[0])
    raise [*deeper, UserError(f"{where} must be {described(hint)}, got {shown(value)}")][0]
