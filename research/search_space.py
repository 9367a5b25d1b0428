"""What a sweep tries: dotted paths of a config with the values to choose from, as `sweep()` of a config file says them.

    def sweep() -> Space:
        return {
            "optimizer.learning_rate": log_uniform(1e-4, 1e-2),
            "optimizer.name": choice(["adamw", "sgd"]),
            "optimizer.momentum": given("optimizer.name", "sgd", uniform(0.8, 0.99)),
            ":size": choice(["small", "base"]),
        }

A path that starts with a colon is an argument of the config file ("configs/a.py:size=base").
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from research.errors import UserError


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of `values`, each of which JSON can hold."""

    values: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Range:
    """A number from low to high, both included. log: its logarithm is uniform. integer: a whole number."""

    low: int | float
    high: int | float
    log: bool = False
    integer: bool = False


@dataclasses.dataclass(frozen=True)
class Given:
    """`values`, but only where `path` has `value`: elsewhere the config keeps its own."""

    path: str
    value: Any
    values: Choice | Range


type Dimension = Choice | Range | Given
type Space = Mapping[str, Dimension]
type Point = dict[str, Any]
"""A value for each path that applies."""


def choice(values: Iterable[Any]) -> Choice:
    """One of the values, all of which a grid tries.

    Raises UserError for none, for one that is there twice, and for one that JSON cannot hold.
    """
    values = tuple(tuple(value) if isinstance(value, list) else value for value in values)
    if not values:
        raise UserError("a sweep has a choice of no values: list at least one")
    for value in values:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UserError(f"a sweep lists the value {value!r}: use texts, finite numbers and lists") from error
    twice = next((value for index, value in enumerate(values) if value in values[:index]), None)
    if twice is not None:
        raise UserError(f"a sweep lists the value {twice!r} twice: keep one of them")
    return Choice(values)


def uniform(low: float | int, high: float | int) -> Range:
    """A number between low and high. Raises UserError unless these are finite numbers, the lower one first."""
    return _range(low, high)


def log_uniform(low: float | int, high: float | int) -> Range:
    """A number between low and high, uniform in its logarithm. Raises UserError unless 0 < low < high < inf."""
    return _range(low, high, log=True)


def integer(low: int, high: int) -> Range:
    """A whole number from low to high, both included. Raises UserError unless these are such, the lower one first."""
    return _range(low, high, integer=True)


def given(path: str, value: Any, values: Choice | Range) -> Given:
    """The values, where the swept `path` has this `value`; elsewhere the path of this entry is left alone."""
    return Given(path, value, values)


def _range(low: float | int, high: float | int, **kind: bool) -> Range:
    types, most = ((int,), 2**53) if kind.get("integer") else ((int, float), 1e300)  # the database stores floats
    if not all(isinstance(end, types) and not isinstance(end, bool) and abs(end) <= most for end in (low, high)):
        what = "whole numbers" if kind.get("integer") else "finite numbers"
        raise UserError(f"a sweep goes from {low!r} to {high!r}: give {what}, of at most {most:g}")
    if not low < high or (kind.get("log") and low <= 0):
        raise UserError(
            f"a sweep goes from {low} to {high}: give the lower end first" + ", above 0" * kind.get("log", False)
        )
    return Range(low, high, **kind)
