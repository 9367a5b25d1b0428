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
from research.ranges import NotNegative, Pattern, Positive, Rate, Share
from research.training.schedules import Factor

KERNELS_AND_TABLES = r"(kernel|embedding)$"

_LAYER = re.compile(r"(?:^|/)(?:layer_(\d+)|(?:stage|row)_(\d+)_(?:block_(\d+)|[a-z]+))/")
_AFTER = re.compile(r"^(head|pool|pooler|last|masked|next_sentence|hidden_maps)(_[a-z_]+)?(/|$)")


@dataclasses.dataclass(frozen=True)
class Adam:
    """Kingma & Ba 2015."""

    learning_rate: NotNegative
    b1: Rate = 0.9
    b2: Rate = 0.999
    eps: Positive = 1e-8
    clip_norm: Positive | None = None
    multipliers: Mapping[Pattern, NotNegative] = dataclasses.field(default_factory=dict)

    def rule(self) -> optax.GradientTransformation:
        return optax.scale_by_adam(self.b1, self.b2, self.eps)


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Loshchilov & Hutter 2019: Adam with weight decay apart from the gradient, on parameters matching `decay_on`.

    layer_decay: the learning rate of every layer is that of the one above it times this, for fine-tuning (Clark et al.
    2020, section 3.2): the head's is the full one, that of what comes before the first layer the smallest.
    """

    learning_rate: NotNegative
    b1: Rate = 0.9
    b2: Rate = 0.999
    eps: Positive = 1e-8
    weight_decay: NotNegative = 1e-2
    decay_on: Pattern = KERNELS_AND_TABLES
    layer_decay: Share = 1.0
    clip_norm: Positive | None = None
    multipliers: Mapping[Pattern, NotNegative] = dataclasses.field(default_factory=dict)

    def rule(self) -> optax.GradientTransformation:
        decay = optax.add_decayed_weights(self.weight_decay, mask=lambda params: matching(params, self.decay_on))
        return optax.chain(optax.scale_by_adam(self.b1, self.b2, self.eps), decay)


@dataclasses.dataclass(frozen=True)
class SGD:
    """Gradient descent with (Nesterov) momentum; the decay is added to the gradient."""

    learning_rate: NotNegative
    momentum: Rate = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 0.0
    decay_on: Pattern = KERNELS_AND_TABLES
    clip_norm: Positive | None = None
    multipliers: Mapping[Pattern, NotNegative] = dataclasses.field(default_factory=dict)

    def rule(self) -> optax.GradientTransformation:
        decay = optax.add_decayed_weights(self.weight_decay, mask=lambda params: matching(params, self.decay_on))
        return optax.chain(decay, optax.trace(self.momentum, self.nesterov))


@dataclasses.dataclass(frozen=True)
class Adafactor:
    """Shazeer & Stern 2018: second moments as rows times columns, updates clipped by their root mean square."""

    learning_rate: NotNegative
    decay_rate: Share = 0.8
    clip_norm: Positive | None = None
    multipliers: Mapping[Pattern, NotNegative] = dataclasses.field(default_factory=dict)

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
        _scale_by_layer(getattr(config, "layer_decay", 1.0)),
        optax.scale_by_schedule(lambda step: -config.learning_rate * factor(step)),
    )


def matching(params: Any, pattern: str) -> Any:
    """A tree of booleans: whether `pattern` is found in the path of each parameter."""
    return jax.tree.map(lambda path: re.search(pattern, path) is not None, path_names(params))


def check_patterns(config: Adam | AdamW | SGD | Adafactor, params: Any) -> None:
    """Raises UserError for a pattern that matches no parameter."""
    paths = jax.tree.leaves(path_names(params))
    patterns = dict.fromkeys(config.multipliers, "optimizer.multipliers")
    if hasattr(config, "decay_on"):
        patterns[config.decay_on] = "optimizer.decay_on"
    if getattr(config, "layer_decay", 1.0) != 1.0 and not any(_LAYER.search(path) for path in paths):
        raise UserError(
            "optimizer.layer_decay finds no parameters named layer_0, layer_1, ... or stage_0_block_0, ...: "
            "set model.scan to false"
        )
    for pattern, where in patterns.items():
        if not any(re.search(pattern, path) for path in paths):
            raise UserError(f"{where} {pattern!r} matches no parameter: the paths look like {paths[0]!r}")


def _scale_by_path(multipliers: Mapping[str, float]) -> optax.GradientTransformation:
    """Each update times the multiplier of the first pattern found in its path; 0 freezes a parameter."""

    def scale(path: str, update: jax.Array) -> jax.Array:
        return next((update * factor for pattern, factor in multipliers.items() if re.search(pattern, path)), update)

    return optax.stateless(lambda updates, params: jax.tree.map(scale, path_names(updates), updates))


def _scale_by_layer(decay: float) -> optax.GradientTransformation:
    if decay == 1.0:
        return optax.identity()

    def scale(updates: Any) -> Any:
        depths = layer_depths(updates)
        top = max(jax.tree.leaves(depths))
        return jax.tree.map(lambda depth, update: update * decay ** (top - depth), depths, updates)

    return optax.stateless(lambda updates, params: scale(updates))


def layer_depths(params: Any) -> Any:
    """A tree of depths, by the names that our models give their parameters.

    0 is what comes before the first layer (`stem`, `patch_embedding`, tokens), 1 the first layer (`layer_0`, or
    `stage_0_block_0` of models in stages), and so on from one stage to the next; what leads into a stage
    (`stage_1_merge`) has the depth of the stage's first block. Heads and the norm after the last layer are one above
    it, as in BEiT (Bao et al. 2022).
    """
    paths = path_names(params)
    stacks = {path[: found.start()] for path in jax.tree.leaves(paths) if (found := _LAYER.search(path))}
    norms = tuple(f"{stack}/norm/" if stack else "norm/" for stack in stacks)

    def place(path: str) -> tuple[int, ...]:
        if found := _LAYER.search(path):
            layer, stage, block = (int(number or 0) for number in found.groups())
            return (1, stage, layer + block)
        return (2,) if _AFTER.search(path) or path.startswith(norms) else (0,)

    places = jax.tree.map(place, paths)
    ranks = {rank: depth for depth, rank in enumerate(sorted({(0,), *_leaves(places)}))}
    return jax.tree.map(ranks.get, places, is_leaf=lambda node: isinstance(node, tuple))


def _leaves(places: Any) -> list[tuple[int, ...]]:
    return jax.tree.leaves(places, is_leaf=lambda node: isinstance(node, tuple))
