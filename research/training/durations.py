"""Durations: how long to train, warm up or wait, in exactly one unit."""

import dataclasses
import math

from research.errors import UserError


@dataclasses.dataclass(frozen=True)
class Duration:
    """A stretch of training in exactly one of `steps`, `epochs`, `examples` or `tokens`."""

    steps: int | None = None
    epochs: float | None = None
    examples: float | None = None
    tokens: float | None = None

    def __post_init__(self):
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        if len(given) != 1:
            stated = " and ".join(given) or "no unit"
            raise UserError(f"a duration has {stated}: give exactly one of steps, epochs, examples or tokens")
        if next(iter(given.values())) < 0:
            raise UserError(f"a duration of {given} is negative: use zero or more")


@dataclasses.dataclass(frozen=True)
class Clock:
    """Converts durations to steps for one plan of batches; `tokens_per_step` is None where there are no tokens."""

    steps_per_epoch: float
    examples_per_step: float
    tokens_per_step: float | None

    def steps(self, duration: Duration) -> int:
        """The duration in whole steps, rounded up."""
        if duration.steps is not None:
            return duration.steps
        if duration.epochs is not None:
            return math.ceil(duration.epochs * self.steps_per_epoch)
        if duration.examples is not None:
            return math.ceil(duration.examples / self.examples_per_step)
        if self.tokens_per_step is None:
            raise UserError("a duration in tokens has no meaning for this data: use steps, epochs or examples")
        return math.ceil(duration.tokens / self.tokens_per_step)
