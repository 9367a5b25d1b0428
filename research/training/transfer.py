"""Starting from the parameters of another model: fine-tuning with a new head."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research.errors import UserError
from research.layers.positions import resample_positions
from research.layers.scan import picked, stacked, unstacked
from research.parallel.sharding import RULES, by_path, path_names
from research.ranges import Range
from research.weights.files import as_float32

TABLES = "|".join(rule.pattern for rule in RULES if rule.name == "vocab_size")
"""Paths of the tables that have one row for each token."""

type TokenIds = Mapping[str, Mapping[str, int]]
"""The id of each token, of the vocabularies of "source" and "target"; empty where there is no vocabulary."""


class Partly(NamedTuple):
    """Values for a part of a parameter.

    values: in its shape. found: bool, broadcastable to it; elsewhere the parameter keeps its fresh initialisation.
    """

    values: Any
    found: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the parameter."""
        return self.values.shape


@dataclasses.dataclass(frozen=True)
class Transfer:
    """The config section `transfer`.

    source: the folder of a run or of a published model, its name on the hub ("hf:OWNER/NAME", `research.hub`),
    or a .safetensors file, with our names ("encoder/layer_0/feed_forward/up/kernel") or with those of timm or
    transformers. new: patterns of the parameters that start afresh. drop: patterns of what the source has and the model
    does not need, such as a decoder. Learned positions are resampled for other image sizes. Rows of tokens are found by
    their tokens where a run has another vocabulary. Layers may be scanned in the source or in the model alone: `drop`
    then sees the single ones (`layer_0`, ...). whole: of a run of the same model, vocabulary and optimizer, its newest
    state as it is, with the optimizer's averages and the step, after which training continues. into: the part of the
    model that is started so, such as the tower "image" of two; the others start afresh, and patterns see the paths
    within it. layers: those of the source, counted from 0, that the model's layers 0, 1, ... start from, in every
    stack, as DistilBERT takes every other one of BERT (Sanh et al. 2019); patterns see the model's numbers.
    """

    source: str
    new: tuple[str, ...] = (r"^head/",)
    drop: tuple[str, ...] = ()
    whole: bool = False
    into: str | None = None
    layers: tuple[Annotated[int, Range(0, 255)], ...] | None = None

    def __post_init__(self):
        if self.whole and self.into:
            raise UserError("transfer.whole takes a run as it is, and transfer.into a part of it: leave one out")
        if self.layers is not None and (self.whole or not self.layers):
            raise UserError(
                f"transfer.layers {self.layers} picks layers of a source: give some, without transfer.whole"
            )
        for name in ("new", "drop"):
            for pattern in getattr(self, name):
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise UserError(f"transfer.{name} {pattern!r} is not a regular expression: {error}") from error


def transferred(
    transfer: Transfer,
    given: Mapping[str, Any],
    abstract: Sequence[Any],
    there: TokenIds | None = None,
    here: TokenIds | None = None,
) -> dict[str, Any]:
    """The given arrays that the model shall start with, by their paths.

    abstract: the model's parameters and statistics. there, here: the vocabularies of the source and of the model; where
    they differ, tables of tokens become `Partly`.

    Raises UserError for a parameter that is neither new nor given in its shape, for one that is given and neither the
    model's nor new nor dropped, for numbers that are not weights, for a pattern that matches none, and for vocabularies
    that have too little in common.
    """
    shapes = {path: leaf for tree in abstract for path, leaf in by_path(tree).items()}
    if transfer.into is not None:
        prefix = f"{transfer.into}/"
        within = {path.removeprefix(prefix): leaf for path, leaf in shapes.items() if path.startswith(prefix)}
        if not within:
            parts = ", ".join(dict.fromkeys(path.split("/")[0] for path in shapes if "/" in path))
            raise UserError(f"transfer.into {transfer.into!r} is not a part of the model: use one of {parts}")
        found = transferred(dataclasses.replace(transfer, into=None), given, [within], there, here)
        return {prefix + path: array for path, array in found.items()}
    if transfer.layers is not None:
        try:
            given = picked(given, transfer.layers)
        except IndexError as error:
            raise UserError(
                f"transfer.layers {transfer.layers} picks from more layers than the {error} of {transfer.source}: use "
                "numbers from 0 to less than that"
            ) from None
    given = unstacked(given, shapes)
    for name, patterns, paths in (("new", transfer.new, shapes), ("drop", transfer.drop, given)):
        for pattern in patterns:
            if not any(re.search(pattern, path) for path in paths):
                like = f": the paths look like {next(iter(paths))!r}" if paths else ""
                raise UserError(f"transfer.{name} {pattern!r} matches no parameter{like}")
    given = {path: array for path, array in given.items() if not _matches(transfer.drop, path)}
    given = stacked(given, shapes)
    left = [path for path in given if path not in shapes and not _matches(transfer.new, path)]
    if left:
        named = ", ".join(repr(path[:80]) for path in left[:3]) + (", ..." if len(left) > 3 else "")
        raise UserError(
            f"transfer.source {transfer.source} has {len(left)} parameters that the model lacks ({named}): use the "
            "model it was trained with, or add patterns for them to transfer.drop"
        )
    kept = {path: leaf for path, leaf in shapes.items() if not _matches(transfer.new, path)}
    given = {path: _resampled(path, as_float32(path, given[path]), shapes) for path in kept if path in given}
    given = by_token(transfer.source, given, kept, there or {}, here or {})
    for path, leaf in kept.items():
        shape = tuple(given[path].shape) if path in given else "absent"
        if shape != tuple(leaf.shape):
            raise UserError(
                f"{path} is {shape} in {transfer.source} and {tuple(leaf.shape)} here: use the model it was trained "
                "with, or add a pattern for it to transfer.new"
            )
    return given


def by_token(
    source: str, given: Mapping[str, Any], shapes: Mapping[str, Any], there: TokenIds, here: TokenIds
) -> dict[str, Any]:
    """The given arrays, with each token's row where the vocabulary `here` has that token.

    given: arrays by their paths, with the vocabulary `there`. shapes: of the model's parameters. Nothing changes where
    the vocabularies are equal or where there is only one. A token that is not `there` keeps its fresh row.

    Raises UserError where fewer than half of the tokens are found, whose rows would be worth little.
    """
    changed = dict(given)
    if not there or not here:
        return changed
    sizes = [max(map(len, ids.values())) for ids in (there, here)]
    for path, array in given.items():
        side = "source" if path.startswith("source_") else "target"
        old, new, wanted = there[side], here[side], tuple(shapes[path].shape)
        axis = _token_axis(path, (array.shape, wanted), sizes)
        if axis is None or (old == new and tuple(array.shape) == wanted):
            continue
        shared = [token for token in new if token in old]
        if 2 * len(shared) < len(new):
            raise UserError(
                f"transfer.source {source} has {len(shared):,} of the {len(new):,} tokens of the vocabulary here, "
                f"fewer than half: take its vocabulary by task.tokenizer={{'path': '{source}/tokenizer.json'}}, or add "
                f"'^{path}' to transfer.new"
            )
        places = [new[token] for token in shared]
        values, found = np.zeros(wanted, np.float32), np.zeros(wanted[axis], bool)
        np.moveaxis(values, axis, 0)[places] = np.moveaxis(np.asarray(array), axis, 0)[[old[token] for token in shared]]
        found[places] = True
        changed[path] = Partly(values, found.reshape([-1 if each == axis else 1 for each in range(len(wanted))]))
    return changed


def _token_axis(path: str, shapes: tuple[tuple[int, ...], tuple[int, ...]], sizes: Sequence[int]) -> int | None:
    """The axis of a parameter that runs over the tokens, None for one that has none or does not fit otherwise.

    shapes: of the array that is given and of the parameter. sizes: of the two vocabularies. Besides the tables these
    are projections to logits, with their biases, which are not within a layer.
    """
    if re.search(TABLES, path):
        return 0 if shapes[0][1:] == shapes[1][1:] else None
    outside = re.search(r"(kernel|bias)$", path) and not re.search(r"(layer|stage|block)s?(_|/)", path)
    last = [shape[-1:] for shape in shapes]
    fits = shapes[0][:-1] == shapes[1][:-1] and last == [(size,) for size in sizes]
    return len(shapes[1]) - 1 if outside and fits else None


def parts_taken(source: str, given: Mapping[str, Any]) -> list[str]:
    """A sentence for each parameter that is taken over in part."""
    return [
        f"{path}: {int(np.sum(part.found)):,} of {part.found.size:,} rows are those of the same tokens in {source}, "
        "the others start afresh"
        for path, part in given.items()
        if isinstance(part, Partly)
    ]


def _matches(patterns: Sequence[str], path: str) -> bool:
    return any(re.search(pattern, path) for pattern in patterns)


def _resampled(path: str, array: Any, shapes: Mapping[str, Any]) -> Any:
    """A position table for as many patches as the model's, where both are squares."""
    wanted = shapes.get(path)
    if path != "position_embedding" or wanted is None or array.shape == wanted.shape:
        return array
    if not len(wanted.shape) == array.ndim == 2 or array.shape[1] != wanted.shape[1]:
        return array
    tokens, side = wanted.shape[0], math.isqrt(wanted.shape[0])
    return resample_positions(jnp.asarray(array), (side, side), tokens - side * side)


def with_given(params: Any, given: Mapping[str, Any]) -> Any:
    """The parameters with those at the given paths, or the part of them that is given, replaced."""

    def replaced(path: str, leaf: Any) -> Any:
        if path not in given:
            return leaf
        if isinstance(given[path], Partly):
            return jnp.where(given[path].found, given[path].values.astype(leaf.dtype), leaf)
        return given[path].astype(leaf.dtype)

    return jax.tree.map(replaced, path_names(params), params)
