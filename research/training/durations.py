"""Durations: how long to train, warm up or wait, in exactly one unit."""

import dataclasses
import math
from typing import Annotated

from research.errors import UserError
from research.ranges import Count, NotNegative, Positive, Range

MOST_STEPS = 2**31 - 1
"""The step of a state is an int32."""


@dataclasses.dataclass(frozen=True)
class Duration:
    """A stretch of training in exactly one of `steps`, `epochs`, `examples` or `tokens`."""

    steps: Annotated[int, Range(0, MOST_STEPS)] | None = None
    epochs: NotNegative | None = None
    examples: NotNegative | None = None
    tokens: NotNegative | None = None

    def __post_init__(self):
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        if len(given) != 1:
            stated = " and ".join(given) or "no unit"
            raise UserError(f"a duration has {stated}: give exactly one of steps, epochs, examples or tokens")


@dataclasses.dataclass(frozen=True)
class Interval(Duration):
    """A Duration that is more than nothing."""

    steps: Count | None = None
    epochs: Positive | None = None
    examples: Positive | None = None
    tokens: Positive | None = None


@dataclasses.dataclass(frozen=True)
class Clock:
    """Converts durations to steps for one plan of batches; `tokens_per_step` is None where there are no tokens."""

    steps_per_epoch: float
    examples_per_step: float
    tokens_per_step: float | None

    def steps(self, duration: Duration) -> int:
        """The duration in whole steps, rounded up. Raises UserError for more of them than 32 bits count."""
        if duration.steps is not None:
            return duration.steps  # as it is: trials trained together have a traced one
        if duration.epochs is not None:
            steps = duration.epochs * self.steps_per_epoch
        elif duration.examples is not None:
            steps = duration.examples / self.examples_per_step
        elif duration.tokens is not None and self.tokens_per_step is not None:
            steps = duration.tokens / self.tokens_per_step
        else:
            raise UserError("a duration in tokens has no meaning for this data: use steps, epochs or examples")
        if steps > MOST_STEPS:
            (given,) = ((unit, value) for unit, value in dataclasses.asdict(duration).items() if value is not None)
            raise UserError(
                f"a duration of {given[0]} {given[1]:,} is more than {MOST_STEPS:,} steps: use a shorter one"
            )
        return math.ceil(steps)
