"""How a model is made smaller, by the name of what comes out: "layers0.5", "heads0.5-neurons0.5", "layers0.5-int8"."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from research.compression.heads import keep_heads
from research.compression.layers import Arrays, Section, keep_layers
from research.compression.neurons import keep_neurons
from research.compression.rank import factorise
from research.config import suggestion
from research.errors import UserError
from research.training.stored import WEIGHTS

DEFAULT = (
    "bf16",
    "int8",
    "heads0.5-neurons0.5",
    "heads0.25-neurons0.25",
    "layers0.5",
    "layers0.33",
    "layers0.5-int8",
)
"""What is tried where nothing else is asked for."""
FIELDS = {"heads": "head_size", "neurons": "mlp_width", "rank": "embedding_width", "layers": "num_layers"}
"""The methods that change a model, in the order in which they do so, and the field that a model needs for each.

Layers come last: what heads and neurons are worth is known by the numbers of the original's layers.
"""
_PART = re.compile(r"([a-z]+)(0?\.[0-9]+)")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What is tried: the fractions of a model that stay, by method, and how its weights are kept."""

    name: str
    fractions: Mapping[str, float]
    weights: str | None = None

    @property
    def trained(self) -> str | None:
        """The candidate whose weights these are, after its training; None where they are the original's own."""
        parts = [part for part in self.name.split("-") if part != self.weights]
        return "-".join(parts) or None


def parse(name: str) -> Candidate:
    """A candidate by its name. Raises UserError for one that says something else."""
    fractions: dict[str, float] = {}
    weights: str | None = None
    for part in name.split("-"):
        found = _PART.fullmatch(part)
        if weights is not None:
            raise UserError(f"candidate {name!r} has more behind {weights}: put {', '.join(WEIGHTS)} last")
        if part in WEIGHTS:
            weights = part
        elif found and found[1] in FIELDS and found[1] not in fractions and 0 < float(found[2]) < 1:
            fractions[found[1]] = float(found[2])
        else:
            known = [f"{method}0.5" for method in FIELDS] + [*WEIGHTS]
            raise UserError(f"candidate {name!r} has {part!r}: {suggestion(part, known, 'methods')}")
    return Candidate(name, fractions, weights)


def check(model: Any, section: Mapping[str, Any], fractions: Mapping[str, float]) -> None:
    """Raises UserError where a model has not what a method makes smaller.

    model: the one that the section describes, without a task's head.
    """
    for method in fractions:
        if FIELDS[method] not in vars(model):
            raise UserError(f"model {section['name']} has no {FIELDS[method]}: leave {method} out")


def shrunk(
    section: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    fractions: Mapping[str, float],
    importance: Callable[[], Mapping[str, np.ndarray]],
) -> tuple[Section, Arrays]:
    """A model's section and parameters, made smaller by all of a candidate's methods.

    importance: gives what heads and neurons are worth, and is asked only where that matters. Raises UserError as the
    methods do.
    """
    changed, smaller = dict(section), dict(arrays)
    for method in FIELDS:
        fraction = fractions.get(method)
        if fraction is None:
            continue
        if method == "layers":
            changed, smaller = keep_layers(changed, smaller, fraction)
        elif method == "rank":
            changed, smaller = factorise(changed, smaller, fraction)
        else:
            keep = keep_heads if method == "heads" else keep_neurons
            changed, smaller = keep(changed, smaller, importance(), fraction)
    return changed, smaller
