"""What values a config's field takes, written where the field is: `dropout: Rate = 0.0`.

`research.config.build` refuses a value outside of its field's range; nothing else has to check it.
"""

import dataclasses
import typing
from typing import Annotated, Any


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included unless `above` leaves out the one or `below` the other."""

    low: float
    high: float = float("inf")
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        return (value > self.low if self.above else value >= self.low) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        """What to use: "0 or more and less than 1"."""
        low = f"more than {self.low:,}" if self.above else f"{self.low:,} or more"
        if self.high == float("inf"):
            return low
        return f"{low} and {'less than' if self.below else 'at most'} {self.high:,}"


class Afterwards:
    """Marks a field that changes nothing of what is learnt: a run's folder takes another value of it later."""


AFTERWARDS = Afterwards()

Rate = Annotated[float, Range(0, 1, below=True)]
"""Of dropout, of a moving average: all of it would leave nothing."""
Fraction = Annotated[float, Range(0, 1)]
NotNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
Count = Annotated[int, Range(1, 2**31 - 1)]
"""Of steps, examples, tokens: what 32 bits can count."""
Size = Annotated[int, Range(1, 2**20)]
"""Of one axis of an array: a width, a side in pixels, a length."""
Layers = Annotated[int, Range(1, 1000)]
"""More of them would be traced for hours."""
Seed = Annotated[int, Range(0, 2**32 - 1)]
"""A key of JAX's random numbers holds 32 bits of it."""


def marks(hint: Any) -> tuple[Any, ...]:
    """What `Annotated` says about a type or about any arm of a union, such as its ranges."""
    found = tuple(getattr(hint, "__metadata__", ()))
    return found + tuple(mark for arm in typing.get_args(hint) for mark in marks(arm))
