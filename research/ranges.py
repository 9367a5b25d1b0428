"""What values a config's field takes, written where the field is: `dropout: Rate = 0.0`.

`research.config.build` refuses a value outside of its field's range; nothing else has to check it.
"""

import ctypes
import dataclasses
import math
import re
import typing
from typing import Annotated, Any

TINY = 2.0**-126
"""The smallest normal number of float32; less than it counts as 0."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included unless `above` leaves out the one or `below` the other.

    Those that are left out stay out when a number is rounded to float32, in which nearly all is computed: 1e-300, which
    is 0 there, is not more than 0, and 0.99999999999 not less than 1.
    """

    low: float
    high: float = float("inf")
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        single = _single(value) if isinstance(value, float) else value
        above = min(value, single) > self.low if self.above else value >= self.low
        below = max(value, single) < self.high if self.below else value <= self.high
        return above and below and not math.isinf(single)

    def __str__(self) -> str:
        """What to use: "0 or more and less than 1"."""
        low = f"more than {self.low:,}" if self.above else f"{self.low:,} or more"
        if self.high > 1e30:  # a limit of the arithmetic that nobody meets
            return low
        return f"{low} and {'less than' if self.below else 'at most'} {self.high:,}"

    def remedy(self, value: float) -> str:
        """What to use in place of a value that is not in the range."""
        beyond = self.high > 1e30 and abs(value) > self.high
        return "a number that float32 holds" if beyond or 0 < abs(value) < TINY else str(self)


class Expression:
    """Texts that are regular expressions."""

    def __contains__(self, value: str) -> bool:
        try:
            re.compile(value)
        except (re.error, RecursionError, OverflowError):
            return False
        return True

    def remedy(self, value: str) -> str:
        """What to use in place of a text that is none."""
        return "a regular expression"


class Afterwards:
    """Marks a field that changes nothing of what is learnt: a run's folder takes another value of it later."""


class Answering(Afterwards):
    """Marks one of them that a person may choose for each answer, such as the size of a beam."""


class Moved:
    """Marks the place of data: a run's folder takes another place of the same data later."""


class Nested:
    """Marks sections within a section, each with a name: their classes are those of the same table."""


AFTERWARDS = Afterwards()
ANSWERING = Answering()
MOVED = Moved()
NESTED = Nested()

LARGEST = 3.4e38
"""Of float32, to two digits."""

Rate = Annotated[float, Range(0, 1, below=True)]
"""Of dropout, of a moving average: all of it would leave nothing."""
Fraction = Annotated[float, Range(0, 1)]
Share = Annotated[float, Range(0, 1, above=True)]
"""A fraction of which something has to be there."""
Part = Annotated[float, Range(0, 1, above=True, below=True)]
"""A fraction of something that leaves a rest."""
Number = Annotated[float, Range(-LARGEST, LARGEST)]
NotNegative = Annotated[float, Range(0, LARGEST)]
Positive = Annotated[float, Range(0, LARGEST, above=True)]
Temperature = Annotated[float, Range(1e-3, 1e3)]
"""Logits divided by it keep apart in float32."""
Degrees = Annotated[float, Range(0, 360)]
Count = Annotated[int, Range(1, 2**31 - 1)]
"""Of steps, examples, tokens: what 32 bits can count."""
Size = Annotated[int, Range(1, 2**20)]
"""Of one axis of an array: a width, a length, a vocabulary."""
Classes = Annotated[int, Range(0, 2**20)]
"""Without any, a model gives features."""
Pixels = Annotated[int, Range(1, 2**13)]
"""On a side of an image."""
Layers = Annotated[int, Range(1, 256)]
"""More of them would be traced for minutes and compiled for hours."""
Pattern = Annotated[str, Expression()]
"""That is searched in the paths of parameters."""
Seed = Annotated[int, Range(0, 2**32 - 1)]
"""A key of JAX's random numbers holds 32 bits of it."""


def _single(value: float) -> float:
    """A number as float32 holds it: what is below its smallest normal number counts as 0."""
    single = ctypes.c_float(value).value
    return 0.0 if abs(single) < TINY else single


def marks(hint: Any) -> tuple[Any, ...]:
    """What `Annotated` says about a type or about any arm of a union, such as its ranges."""
    found = tuple(getattr(hint, "__metadata__", ()))
    return found + tuple(mark for arm in typing.get_args(hint) for mark in marks(arm))
