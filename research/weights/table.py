"""The table of a family: which of our arrays is which of theirs. One table serves both directions.

A line names our paths and their names, with `{}` for every number in them, and the layout between the two. It holds for
as many layers as the model has: the model's own shapes say which lines apply, and each of its paths needs exactly one.
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from research.errors import UserError
from research.weights.layouts import HEADS_BIAS, HEADS_IN, HEADS_OUT, MOVING_VARIANCE, SAME, TRANSPOSE, Layout

type Numbers = tuple[int, ...]


class Line(NamedTuple):
    """numbers: from those in our path to those in their name, the same unless given; None for another line's path."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    layout: Layout
    numbers: Callable[[Numbers], Numbers | None] | None = None


class Drop(NamedTuple):
    """Names (a regular expression of all of one) that our models have no array for, and why.

    equals: their name of the array that it repeats, where it has to be equal to be left out.
    """

    names: str
    why: str
    equals: str | None = None


class Entry(NamedTuple):
    """One line, for the arrays of one layer."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    layout: Layout
    shapes: tuple[tuple[int, ...], ...]

    @property
    def their_shapes(self) -> list[tuple[int, ...]]:
        """The shapes of their arrays: of bytes that are laid out as ours would be."""
        zeros = [np.broadcast_to(np.uint8(0), shape) for shape in self.shapes]
        return [array.shape for array in self.layout.theirs(zeros)]


@dataclasses.dataclass(frozen=True)
class Table:
    """The lines of a family in one library's names.

    spellings: other names of the same arrays, as pattern -> replacement; tried in this order on what is read.
    prefix: before the names of a model that has a head, such as "bert.", which a model without one lacks.
    heads: how the names begin that never have the prefix.
    """

    lines: tuple[Line, ...]
    drops: tuple[Drop, ...] = ()
    spellings: tuple[tuple[str, str], ...] = ()
    prefix: str = ""
    heads: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """A digest of all lines."""
        lines = [(line.ours, line.theirs, line.layout.name) for line in self.lines]
        return hashlib.sha256(repr((lines, self.drops, self.spellings)).encode()).hexdigest()[:16]

    def spelt(self, name: str) -> str:
        """Their name as the table has it: without the prefix, in today's spelling."""
        name = name.removeprefix(self.prefix)
        for pattern, replacement in self.spellings:
            name = re.sub(pattern, replacement, name)
        return name

    def written(self, name: str, *, prefixed: bool) -> str:
        """A name of the table as a file has it."""
        return self.prefix + name if prefixed and not name.startswith(self.heads) else name

    def entries(self, shapes: Mapping[str, tuple[int, ...]]) -> list[Entry]:
        """The lines that apply to a model whose layers are not scanned, for its arrays of these shapes.

        Arrays that no line knows are left out.
        """
        entries, known = [], set()
        for line in self.lines:
            for numbers in _numbers(line.ours[0], shapes):
                given = line.numbers(numbers) if line.numbers else numbers
                if given is None:
                    continue
                ours = tuple(pattern.format(*numbers) for pattern in line.ours)
                if known & {*ours} or not {*ours} <= shapes.keys():
                    raise UserError(f"the table of weights has {ours[0]} twice or in part: mend its lines")
                known |= {*ours}
                theirs = tuple(pattern.format(*given) for pattern in line.theirs)
                entries.append(Entry(ours, theirs, line.layout, tuple(shapes[path] for path in ours)))
        return entries

    def reason(self, name: str) -> str | None:
        """Why a name is left out; None for one that is not."""
        return next((drop.why for drop in self.drops if re.fullmatch(drop.names, name)), None)


def _numbers(pattern: str, paths: Iterable[str]) -> Iterator[Numbers]:
    """The numbers of each path that has the pattern."""
    expression = re.compile(re.escape(pattern).replace(r"\{\}", r"(\d+)"))
    for path in paths:
        if found := expression.fullmatch(path):
            yield tuple(int(number) for number in found.groups())


def line(ours: str, theirs: str, layout: Layout = SAME) -> Line:
    """The line of one array."""
    return Line((ours,), (theirs,), layout)


def dense(ours: str, theirs: str, layout: Layout = TRANSPOSE, bias: Layout = SAME) -> list[Line]:
    """A projection with or without a bias."""
    return [line(f"{ours}/kernel", f"{theirs}.weight", layout), line(f"{ours}/bias", f"{theirs}.bias", bias)]


def norm(ours: str, theirs: str) -> list[Line]:
    """LayerNorm or, without a bias, RMSNorm."""
    return [line(f"{ours}/scale", f"{theirs}.weight"), line(f"{ours}/bias", f"{theirs}.bias")]


def attention(ours: str, query: str, key: str, value: str, out: str) -> list[Line]:
    """Attention whose query, key and value are three arrays."""
    names = {"query": query, "key": key, "value": value}
    inputs = [one for name, theirs in names.items() for one in dense(f"{ours}/{name}", theirs, HEADS_IN, HEADS_BIAS)]
    return [*inputs, *dense(f"{ours}/out", out, HEADS_OUT)]


def batch_norm(ours: str, theirs: str) -> list[Line]:
    """Batch normalisation with its statistics."""
    statistics = (f"{theirs}.running_mean", f"{theirs}.running_var")
    return [*norm(ours, theirs), Line((f"{ours}/mean", f"{ours}/mean_square"), statistics, MOVING_VARIANCE)]


def within(ours: str, theirs: str, lines: Sequence[Line]) -> list[Line]:
    """The lines of a model that is a part of another one; each side's names begin so."""
    return [
        one._replace(
            ours=tuple(f"{ours}/{path}" for path in one.ours), theirs=tuple(f"{theirs}.{name}" for name in one.theirs)
        )
        for one in lines
    ]


def numbered(numbers: Callable[[Numbers], Numbers | None], lines: Sequence[Line]) -> list[Line]:
    """Lines whose numbers differ on the two sides."""
    return [one._replace(numbers=numbers) for one in lines]
