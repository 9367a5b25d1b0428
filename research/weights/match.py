"""A file's arrays beside a model's: what belongs together, what is missing, unexpected or misshapen."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from research.errors import UserError
from research.parallel.sharding import by_path
from research.weights.files import Arrays, as_float32
from research.weights.table import Entry, Table

NAMED = 3
"""Arrays that a sentence names."""
LARGEST_MODEL = 8
"""How many times as many numbers as its file a model may have before it is not even compared."""


@dataclasses.dataclass(frozen=True)
class Match:
    """entries: of the model's table. names: the file's name of each name in the table. dropped: why a name is left out.

    unnamed: our paths that the table does not know. unexpected: the file's names that are neither used nor dropped.
    missing: names of the table that the file lacks. misshapen: (name, shape in the file, shape that ours would have).
    unlike: the file's names of arrays that follow from the config and are not as they would follow.
    """

    entries: Sequence[Entry]
    names: Mapping[str, str]
    dropped: Mapping[str, str]
    unnamed: Sequence[str]
    unexpected: Sequence[str]
    missing: Sequence[str]
    misshapen: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]]
    unlike: Sequence[str] = ()

    @property
    def fits(self) -> bool:
        """Whether nothing is unnamed, missing, unexpected, misshapen or unlike."""
        return not (self.unnamed or self.missing or self.unexpected or self.misshapen or self.unlike)

    @property
    def used(self) -> int:
        """How many names are used."""
        return sum(name in self.names for entry in self.entries for name in entry.theirs)


def shapes_of(model: nn.Module, inputs: Sequence[Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's parameters and statistics by their paths, its layers not scanned.

    inputs: arrays or abstract ones, such as the model is called with.
    """
    variables = jax.eval_shape(_single(model).init, jax.random.key(0), *inputs)
    return {path: tuple(leaf.shape) for tree in variables.values() for path, leaf in by_path(tree).items()}


def _single(model: nn.Module) -> nn.Module:
    """The model with layers, and those of the models within it, that are not scanned."""
    fields = {name: value for name, value in vars(model).items() if name != "parent"}
    changed: dict[str, Any] = {name: _single(value) for name, value in fields.items() if isinstance(value, nn.Module)}
    if fields.get("scan"):
        changed["scan"] = False
    return model.clone(**changed)


def match(table: Table, shapes: Mapping[str, tuple[int, ...]], arrays: Mapping[str, Any]) -> Match:
    """Looks each of the model's arrays up in the file.

    Raises UserError where a name is there in two spellings, where the model is far larger than the file, and where an
    array that repeats another differs from it.
    """
    found = arrays.shapes if isinstance(arrays, Arrays) else {name: np.shape(array) for name, array in arrays.items()}
    sizes = [sum(int(np.prod(shape, dtype=object)) for shape in side.values()) for side in (shapes, found)]
    if sizes[0] > LARGEST_MODEL * sizes[1]:
        raise UserError(
            f"the model has {sizes[0]:,} parameters and the weights {sizes[1]:,}: give the config.json of these weights"
        )
    names: dict[str, str] = {}
    for name in found:
        if (spelt := table.spelt(name)) in names:
            raise UserError(f"the weights hold {names[spelt]!r} twice, the second time as {name!r}: remove one of them")
        names[spelt] = name
    entries = table.entries(shapes)
    misshapen = [
        (name, tuple(found[names[name]]), shape)
        for entry in entries
        for name, shape in zip(entry.theirs, entry.their_shapes, strict=True)
        if name in names and tuple(found[names[name]]) != shape
    ]
    wanted = [name for entry in entries for name in entry.theirs]
    others = {spelt: name for spelt, name in names.items() if spelt not in {*wanted}}
    dropped = {name: why for spelt, name in others.items() if (why := table.reason(spelt))}
    _check_repeated(table, names, others, arrays)
    return Match(
        entries=entries,
        names=names,
        dropped=dropped,
        unnamed=sorted(shapes.keys() - {path for entry in entries for path in entry.ours}),
        unexpected=[name for name in others.values() if name not in dropped],
        missing=[name for name in wanted if name not in names],
        misshapen=misshapen,
    )


def _check_repeated(
    table: Table, names: Mapping[str, str], others: Mapping[str, str], arrays: Mapping[str, Any]
) -> None:
    for spelt, name in others.items():
        drop = next((drop for drop in table.drops if drop.equals and table.reason(spelt) == drop.why), None)
        if drop and drop.equals in names and not np.array_equal(arrays[name], arrays[names[drop.equals]]):
            raise UserError(
                f"the weights hold {name} unlike {names[drop.equals]}, which this model has in its place: use weights "
                "whose two tables are tied"
            )


def read(found: Match, arrays: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Our arrays by their paths, float32, one line's at a time; a line of which a name is missing is left out.

    Raises UserError for numbers that are not weights, and for a shape that cannot be laid out as ours.
    """
    for entry in found.entries:
        if not all(name in found.names for name in entry.theirs):
            continue
        theirs = [as_float32(name, arrays[found.names[name]]) for name in entry.theirs]
        try:
            ours = entry.layout.ours(theirs, entry.shapes)
        except (ValueError, IndexError, TypeError) as error:  # not as many dimensions
            raise UserError(
                f"the weights hold {entry.theirs[0]!r} of shape {theirs[0].shape}, which is not of such a model: use "
                "the weights of the model that the config builds"
            ) from error
        yield from zip(entry.ours, ours, strict=True)


def best(tables: Sequence[Table], shapes: Mapping[str, tuple[int, ...]], arrays: Mapping[str, Any]) -> Table | None:
    """The table that knows the most of a file's names; None where none knows any."""
    known = [{name for entry in table.entries(shapes) for name in entry.theirs} for table in tables]
    counts = [len(names & {*map(table.spelt, arrays)}) for table, names in zip(tables, known, strict=True)]
    return tables[counts.index(max(counts))] if any(counts) else None


def check(found: Match, what: str) -> None:
    """Raises UserError with the first differences, where there are any."""
    if found.fits:
        return
    parts = [f"has no names for {_listed(found.unnamed)} of the model"] if found.unnamed else []
    parts += [f"lacks {_listed(found.missing)}"] if found.missing else []
    parts += [f"has {_listed(found.unexpected)}, which the model lacks"] if found.unexpected else []
    shaped = [f"{name} is {there} and not {here}" for name, there, here in found.misshapen]
    parts += [f"{len(shaped)} shapes differ ({_listed(shaped)})"] if shaped else []
    parts += [f"has {_listed(found.unlike)} unlike what follows from config.json"] if found.unlike else []
    raise UserError(f"{what} {'; '.join(parts)}: `experiments.weights diff` lists all, give the right weights")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def theirs(table: Table, arrays: Mapping[str, Any], *, prefixed: bool) -> dict[str, np.ndarray]:
    """Their arrays by the names that a file has, of all our arrays by their paths; contiguous, in our dtype."""
    entries = table.entries({path: tuple(array.shape) for path, array in arrays.items()})
    return {
        table.written(name, prefixed=prefixed): np.asarray(array, order="C")
        for entry in entries
        for name, array in zip(
            entry.theirs, entry.layout.theirs([np.asarray(arrays[path]) for path in entry.ours]), strict=True
        )
    }
