"""Sharding rules: from a parameter's path and shape to the mesh axes it is split over.

A parameter's path is its names joined by slashes ("encoder/layer_0/feed_forward/up/kernel"); patterns are regular
expressions searched in it. Each parameter must match exactly one rule, so that a new model cannot be replicated by
accident. A rule names the axes of the *last* dimensions, which serves kernels and biases, scanned layers and single
ones alike. Beyond that, whatever the rule, the largest dimension left over is split by `fsdp`. An axis with one device
is idle, so that the same rules make data parallelism, FSDP and FSDP with tensor parallelism, as the mesh asks for.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from research.errors import UserError
from research.parallel.mesh import AXES

Axes = tuple[str | None, ...]

SCANNED = "layers"
"""Name of scanned layers: a variable below it has a leading layer axis."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """name: the setting that decides the split dimension. strict: a dimension that the axis does not divide is an
    error; otherwise it stays whole."""

    name: str
    pattern: str
    axes: Axes
    strict: bool = True


RULES = (
    Rule("num_heads", r"(query|key|value)/(kernel|bias)$", ("tensor", None)),
    Rule("num_heads", r"attention/out/kernel$", ("tensor", None, None)),
    Rule("mlp_width", r"/(up|gate)/(kernel|bias)$", ("tensor",)),
    Rule("mlp_width", r"/down/kernel$", ("tensor", None)),
    Rule("vocab_size", r"^(text/)?(source_|target_|output_)?embedding/embedding$", ("tensor", None), strict=False),
    Rule("num_classes", r"^head(_distillation)?/(kernel|bias)$", ("tensor",), strict=False),
    Rule("sums over the tensor axis", r"/(out|down)/bias$", ()),
    Rule("norms", r"norm/(scale|bias)$", ()),
    Rule("factors of channels", r"_scale$", ()),
    Rule(
        "convolutions",
        r"/conv/(kernel|bias)$|/(squeeze|excite|reduce)/(kernel|bias)$|^(image/)?last/(kernel|bias)$",
        (),
    ),
    Rule(
        "positions and segments",
        r"(position_embedding|segment_embedding|positions|relative_bias)(/embedding)?$|/relative_(key|value)$",
        (),
    ),
    Rule(
        "tokens of an image model",
        r"^((encoder|image|backbone)/)?((cls|mask|distillation)_token|registers|pool_query)$",
        (),
    ),
    Rule(
        "input of an image model",
        r"^((encoder|image|backbone)/)?(patch|decoder)_embedding/(projection/)?(kernel|bias)$",
        (),
    ),
    Rule("levels of a SegFormer", r"^project_\d/(kernel|bias)$", ()),
    Rule("two towers", r"^(image|text)_projection/(kernel|bias)$|^logit_bias$", ()),
    Rule("masks of a Segmenter", r"^class_embedding$|^(project|(patch|class)_projection)/(kernel|bias)$", ()),
    Rule("queries and boxes of a DETR", r"^query_embedding$|^box_\d/(kernel|bias)$", ()),
    Rule(
        "heads of an encoder of text",
        r"^(pooler|masked/transform|next_sentence|embedding_projection)/(kernel|bias)$|^(masked/|logits_)bias$",
        (),
    ),
    Rule("maps to a teacher's states", r"^hidden_maps/", ()),
    Rule("recurrent layers", r"/(start|combine|input|layer_\d+)/(kernel|bias)$|/recurrent$", ()),
)

MOST_REPLICATED = 0.02
"""Share of the parameters' bytes that may stay whole on a mesh with an fsdp axis."""


def path_names(tree: Any) -> Any:
    """The tree with every leaf replaced by its path."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path), tree
    )


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths."""
    return dict(zip(jax.tree.leaves(path_names(tree)), jax.tree.leaves(tree), strict=True))


def partition_specs(params: Any, mesh: Mesh, rules: Mapping[str, Axes]) -> dict[str, PartitionSpec]:
    """The spec of every parameter by its path.

    params: arrays or their abstract shapes. rules: a config's own, which come before the built-in ones.

    Raises UserError where a parameter matches no rule or several, where a rule of the config matches nothing, where an
    axis does not divide its dimension, and where too much would stay replicated on an fsdp mesh.
    """
    own = tuple(Rule(pattern, pattern, tuple(axes)) for pattern, axes in rules.items())
    shapes = by_path(params)
    _check_rules(own, list(shapes))
    chosen = {path: _rule(path, own) for path in shapes}
    _check_divisible(chosen, shapes, mesh)
    specs = {path: _spec(chosen[path], path, tuple(leaf.shape), mesh) for path, leaf in shapes.items()}
    if mesh.shape["fsdp"] > 1:
        _check_replicated(shapes, specs)
    return specs


def _check_rules(rules: tuple[Rule, ...], paths: list[str]) -> None:
    for rule in rules:
        try:
            found = any(re.search(rule.pattern, path) for path in paths)
        except re.error as error:
            raise UserError(f"mesh.rules {rule.pattern!r} is not a regular expression: {error}") from None
        if not found:
            raise UserError(f"mesh.rules {rule.pattern!r} matches no parameter: the paths look like {paths[0]!r}")
        for axis in set(rule.axes) - {None}:
            if axis not in AXES:
                raise UserError(f"mesh.rules {rule.pattern!r} names the axis {axis!r}: use {', '.join(AXES)} or None")


def _rule(path: str, own: tuple[Rule, ...]) -> Rule:
    matching = [rule for rule in own if re.search(rule.pattern, path)] or [
        rule for rule in RULES if re.search(rule.pattern, path)
    ]
    if len(matching) != 1:
        found = "no sharding rule" if not matching else "the rules " + " and ".join(repr(r.pattern) for r in matching)
        raise UserError(f"parameter {path} matches {found}: add one for it to mesh.rules, such as {{'{path}$': []}}")
    return matching[0]


def _aligned(rule: Rule, shape: tuple[int, ...]) -> list[str | None]:
    """The rule's axes for each dimension of an array; a shorter one lacks the first of them."""
    axes = (None,) * (len(shape) - len(rule.axes)) + rule.axes
    return list(axes[len(axes) - len(shape) :])


def _check_divisible(rules: Mapping[str, Rule], shapes: Mapping[str, Any], mesh: Mesh) -> None:
    split: dict[str, list[tuple[int, str]]] = {}
    for path, rule in rules.items():
        for size, axis in zip(shapes[path].shape, _aligned(rule, shapes[path].shape), strict=True):
            if rule.strict and axis:
                split.setdefault(axis, []).append((size, path))
    for axis, sizes in split.items():
        for size, path in sorted(sizes):
            if size % mesh.shape[axis]:
                common = math.gcd(*(size for size, _ in sizes))
                divisors = [str(number) for number in range(1, common + 1) if common % number == 0]
                raise UserError(
                    f"mesh.{axis} {mesh.shape[axis]} does not divide {rules[path].name} {size} of {path}: "
                    f"use {' or '.join(filter(None, [', '.join(divisors[:-1]), divisors[-1]]))}"
                )


def _spec(rule: Rule, path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    sized = zip(_aligned(rule, shape), shape, strict=True)
    axes = [axis if axis and mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0 else None for axis, size in sized]
    fsdp = mesh.shape["fsdp"]
    # Splitting the axis that a scan runs over would move every layer at each step.
    first = 1 if f"/{SCANNED}/" in path else 0
    free = [d for d in range(first, len(shape)) if axes[d] is None and shape[d] % fsdp == 0]
    if fsdp > 1 and free and "fsdp" not in axes:
        axes[max(free, key=lambda dimension: shape[dimension])] = "fsdp"
    return PartitionSpec(*axes)


def _check_replicated(shapes: Mapping[str, Any], specs: Mapping[str, PartitionSpec]) -> None:
    sizes = {path: math.prod(leaf.shape) * leaf.dtype.itemsize for path, leaf in shapes.items()}
    whole = sorted((path for path in shapes if "fsdp" not in specs[path]), key=lambda path: sizes[path], reverse=True)
    share = sum(sizes[path] for path in whole) / sum(sizes.values())
    if share > MOST_REPLICATED:
        listed = ", ".join(f"{path} {tuple(shapes[path].shape)}" for path in whole[:3])
        raise UserError(
            f"{share:.1%} of the parameters' bytes cannot be split by mesh.fsdp and would stay whole on every device "
            f"({listed}): use a mesh.fsdp that divides one of their dimensions"
        )


def with_shardings(state: Any, params: Any, mesh: Mesh, rules: Mapping[str, Axes]) -> Any:
    """Abstract arrays of a training state (or of any tree that holds copies of `params`) with their shardings.

    What has the path and the shape of a parameter (moments, averages) is split like it; everything else is whole.
    """
    specs = partition_specs(params, mesh, rules)
    shapes = by_path(params)

    def place(path: str, leaf: Any) -> jax.ShapeDtypeStruct:
        names = path.split("/")
        tails = ("/".join(names[start:]) for start in range(len(names)))
        like = next((tail for tail in tails if tail in specs and shapes[tail].shape == leaf.shape), None)
        sharding = NamedSharding(mesh, specs[like] if like else PartitionSpec())
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(place, path_names(state), state)
