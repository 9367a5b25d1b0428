"""Optimizers: Optax's rules behind one config section, with decay and learning rates chosen by parameter path.

A parameter's path is its names joined by slashes ("encoder/layer_0/feed_forward/up/kernel"); patterns are regular
expressions searched in it.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import optax

from research.errors import UserError
from research.parallel.sharding import path_names
from research.training.schedules import Factor

KERNELS_AND_TABLES = r"(kernel|embedding)$"


@dataclasses.dataclass(frozen=True)
class Adam:
    """Kingma & Ba 2015."""

    learning_rate: float
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    clip_norm: float | None = None
    multipliers: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def rule(self) -> optax.GradientTransformation:
        return optax.scale_by_adam(self.b1, self.b2, self.eps)


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Loshchilov & Hutter 2019: Adam with weight decay apart from the gradient, on parameters matching `decay_on`."""

    learning_rate: float
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 1e-2
    decay_on: str = KERNELS_AND_TABLES
    clip_norm: float | None = None
    multipliers: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def rule(self) -> optax.GradientTransformation:
        decay = optax.add_decayed_weights(self.weight_decay, mask=lambda params: matching(params, self.decay_on))
        return optax.chain(optax.scale_by_adam(self.b1, self.b2, self.eps), decay)


@dataclasses.dataclass(frozen=True)
class SGD:
    """Gradient descent with (Nesterov) momentum; the decay is added to the gradient."""

    learning_rate: float
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_on: str = KERNELS_AND_TABLES
    clip_norm: float | None = None
    multipliers: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def rule(self) -> optax.GradientTransformation:
        decay = optax.add_decayed_weights(self.weight_decay, mask=lambda params: matching(params, self.decay_on))
        return optax.chain(decay, optax.trace(self.momentum, self.nesterov))


@dataclasses.dataclass(frozen=True)
class Adafactor:
    """Shazeer & Stern 2018: second moments as rows times columns, updates clipped by their root mean square."""

    learning_rate: float
    decay_rate: float = 0.8
    clip_norm: float | None = None
    multipliers: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def rule(self) -> optax.GradientTransformation:
        return optax.chain(
            optax.scale_by_factored_rms(decay_rate=self.decay_rate),
            optax.clip_by_block_rms(1.0),
            optax.scale_by_param_block_rms(),
        )


OPTIMIZERS = {"adam": Adam, "adamw": AdamW, "sgd": SGD, "adafactor": Adafactor}


def build_optimizer(config: Adam | AdamW | SGD | Adafactor, factor: Factor) -> optax.GradientTransformation:
    """Clipping by global norm, the rule, the multipliers, and the scheduled learning rate, in this order."""
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm is not None else optax.identity()
    return optax.chain(
        clip,
        config.rule(),
        _scale_by_path(config.multipliers),
        optax.scale_by_schedule(lambda step: -config.learning_rate * factor(step)),
    )


def matching(params: Any, pattern: str) -> Any:
    """A tree of booleans: whether `pattern` is found in the path of each parameter."""
    return jax.tree.map(lambda path: re.search(pattern, path) is not None, path_names(params))


def check_patterns(config: Adam | AdamW | SGD | Adafactor, params: Any) -> None:
    """Raises UserError for a pattern that matches no parameter, or that is no regular expression."""
    paths = jax.tree.leaves(path_names(params))
    patterns = dict.fromkeys(config.multipliers, "optimizer.multipliers")
    if hasattr(config, "decay_on"):
        patterns[config.decay_on] = "optimizer.decay_on"
    for pattern, where in patterns.items():
        try:
            found = any(re.search(pattern, path) for path in paths)
        except re.error as error:
            raise UserError(f"{where} {pattern!r} is not a regular expression: {error}") from None
        if not found:
            raise UserError(f"{where} {pattern!r} matches no parameter: the paths look like {paths[0]!r}")


def _scale_by_path(multipliers: Mapping[str, float]) -> optax.GradientTransformation:
    """Each update times the multiplier of the first pattern found in its path; 0 freezes a parameter."""

    def scale(path: str, update: jax.Array) -> jax.Array:
        return next((update * factor for pattern, factor in multipliers.items() if re.search(pattern, path)), update)

    return optax.stateless(lambda updates, params: jax.tree.map(scale, path_names(updates), updates))
