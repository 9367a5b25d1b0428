"""Learning-rate schedules: a factor per step by which the optimizer's `learning_rate` is multiplied.

Each is a frozen dataclass (the config section `schedule`) whose `build(total_steps, clock)` returns `step -> factor`.
Warm-up rises linearly, from 1 / warmup at step 0 to 1 at the end of it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from research.ranges import Fraction, Part, Size
from research.training.durations import Clock, Duration

Factor = Callable[[Any], jnp.ndarray]


@dataclasses.dataclass(frozen=True)
class Linear:
    """Warm-up, then along a line from 1 down to `final` at the last step."""

    warmup: Duration = Duration(steps=0)
    final: Fraction = 0.0

    def build(self, total_steps: int, clock: Clock) -> Factor:
        return _decay(lambda progress: 1 - progress, clock.steps(self.warmup), total_steps, self.final)


@dataclasses.dataclass(frozen=True)
class Cosine:
    """Warm-up, then along half a cosine from 1 down to `final` at the last step (Loshchilov & Hutter 2017)."""

    warmup: Duration = Duration(steps=0)
    final: Fraction = 0.0

    def build(self, total_steps: int, clock: Clock) -> Factor:
        def remaining(progress):
            return 0.5 * (1 + jnp.cos(jnp.pi * progress))

        return _decay(remaining, clock.steps(self.warmup), total_steps, self.final)


@dataclasses.dataclass(frozen=True)
class Constant:
    """1 after the warm-up."""

    warmup: Duration = Duration(steps=0)

    def build(self, total_steps: int, clock: Clock) -> Factor:
        warmup = clock.steps(self.warmup)
        return lambda step: _rise(step, warmup)


@dataclasses.dataclass(frozen=True)
class Drop:
    """1 after the warm-up, `factor` from the fraction `at` of the training on (Carion et al. 2020: 0.1 at 2/3)."""

    at: Part
    factor: Fraction = 0.1
    warmup: Duration = Duration(steps=0)

    def build(self, total_steps: int, clock: Clock) -> Factor:
        warmup = clock.steps(self.warmup)
        return lambda step: _rise(step, warmup) * jnp.where(step < self.at * total_steps, 1.0, self.factor)


@dataclasses.dataclass(frozen=True)
class InverseSqrt:
    """1 at the end of the warm-up, then falling as 1 / sqrt(step) (fairseq's `inverse_sqrt`)."""

    warmup: Duration

    def build(self, total_steps: int, clock: Clock) -> Factor:
        warmup = jnp.maximum(1, clock.steps(self.warmup))
        return lambda step: jnp.minimum(_rise(step, warmup), jnp.sqrt(warmup / (step + 1)))


@dataclasses.dataclass(frozen=True)
class Noam:
    """width^-0.5 * min(step^-0.5, step * warmup^-1.5), steps counted from 1 (Vaswani et al. 2017, equation 3)."""

    width: Size
    warmup: Duration

    def build(self, total_steps: int, clock: Clock) -> Factor:
        warmup = jnp.maximum(1, clock.steps(self.warmup))
        return lambda step: self.width**-0.5 * jnp.minimum((step + 1) ** -0.5, (step + 1) * warmup**-1.5)


def _decay(remaining: Callable, warmup: int, total_steps: int, final: float) -> Factor:
    def factor(step):
        progress = jnp.clip((step - warmup) / jnp.maximum(1, total_steps - warmup), 0.0, 1.0)
        return _rise(step, warmup) * (final + (1 - final) * remaining(progress))

    return factor


def _rise(step, warmup: int | jnp.ndarray):
    return jnp.minimum(1.0, (step + 1) / jnp.maximum(1, warmup))


SCHEDULES = {
    "constant": Constant,
    "cosine": Cosine,
    "drop": Drop,
    "inverse_sqrt": InverseSqrt,
    "linear": Linear,
    "noam": Noam,
}
