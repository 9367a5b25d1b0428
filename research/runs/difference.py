"""The arrays of published weights beside those of a model, line by line."""

from collections.abc import Iterator
from pathlib import Path

from research.errors import UserError, one_line
from research.runs.experiment import open_run
from research.weights.families import tables_of
from research.weights.files import read_arrays
from research.weights.match import Match, best, match, shapes_of
from research.weights.published import read_published


def difference(folder: Path, run: Path | None = None) -> list[str]:
    """A line for each array that is missing, unexpected, misshapen, unlike or left out, and a last one that counts.

    run: whose model to compare with; that of the folder's `config.json` unless given.
    """
    arrays = read_arrays(folder)
    if run is None:
        found = read_published(folder).match
    else:
        experiment = open_run(run)
        shapes = shapes_of(experiment.model, experiment.task.model_inputs(experiment.sample_batch))
        if (table := best(tables_of(experiment.model), shapes, arrays)) is None:
            raise UserError(f"{folder} has no names of arrays that the model of {run} reads: give other weights")
        found = match(table, shapes, arrays)
    lines = list(_lines(found, arrays.shapes))
    width = [max(len(line[column]) for line in lines) for column in range(3)] if lines else [0, 0, 0]
    words = (f"{state:{width[0]}}  {theirs:{width[1]}}  {ours:{width[2]}}".rstrip() for state, theirs, ours in lines)
    count = sum(len(part) for part in (found.unnamed, found.missing, found.unexpected, found.misshapen, found.unlike))
    return [
        *(one_line(text) for text in words),
        f"{found.used} arrays used, {len(found.dropped)} left out, {count} differ",
    ]


def _lines(found: Match, shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, str, str]]:
    """(state, theirs, ours) of all arrays that are not simply used."""
    owner = {name: entry for entry in found.entries for name in entry.theirs}
    for name in found.missing:
        yield "missing", "-", f"{', '.join(owner[name].ours)} {owner[name].shapes[0]} ({name})"
    for name in found.unexpected:
        yield "unexpected", f"{name} {shapes[name]}", "-"
    for name in found.unlike:
        yield "unlike", name, "follows from config.json, otherwise"
    for name, there, here in found.misshapen:
        yield "misshapen", f"{found.names[name]} {there}", f"{', '.join(owner[name].ours)} ({here} there)"
    for path in found.unnamed:
        yield "unnamed", "-", path
    for name, why in found.dropped.items():
        yield "left out", f"{name} {shapes[name]}", why
