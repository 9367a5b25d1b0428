"""Fewer layers: some of a stack's are kept, evenly spaced (DistilBERT, Sanh et al. 2019, section 3)."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from research.errors import UserError

type Section = dict[str, Any]
type Arrays = dict[str, np.ndarray]
"""Parameters and statistics by their paths, of layers that are not scanned."""

_LAYER = re.compile(r"(?P<stack>\w+)/layer_(?P<number>\d+)/(?P<rest>.*)")
FIELDS = {"encoder": "num_layers", "decoder": "num_decoder_layers"}
"""The fields of an encoder-decoder; of a model with one stack it is the first."""


def kept_layers(count: int, fraction: float) -> list[int]:
    """Which of `count` layers stay: the nearest number to the fraction, at least one, the first and the last among them
    where they are more than one."""
    kept = max(1, int(count * fraction + 0.5))
    return [int(place * (count - 1) / max(kept - 1, 1) + 0.5) for place in range(kept)]


def keep_layers(
    section: Mapping[str, Any], arrays: Mapping[str, np.ndarray], fraction: float
) -> tuple[Section, Arrays]:
    """The model's section and parameters with a fraction of the layers of each stack.

    Raises UserError where there are no layers, or where they have the same parameters.
    """
    if section.get("share_layers"):
        raise UserError("all layers have one layer's parameters (model.share_layers): leave layers out")
    numbers: dict[str, set[int]] = {}
    for found in filter(None, map(_LAYER.fullmatch, arrays)):
        numbers.setdefault(found["stack"], set()).add(int(found["number"]))
    if not numbers or (len(numbers) > 1 and numbers.keys() != FIELDS.keys()):
        raise UserError(f"model {section['name']} has no layers that can be left out: leave layers out")
    places = {stack: kept_layers(len(found), fraction) for stack, found in numbers.items()}
    changed: Arrays = {}
    for path, array in arrays.items():
        found = _LAYER.fullmatch(path)
        if not found:
            changed[path] = array
        elif (number := int(found["number"])) in places[found["stack"]]:
            place = places[found["stack"]].index(number)
            changed[f"{found['stack']}/layer_{place}/{found['rest']}"] = array
    fields = {FIELDS[stack] if len(places) > 1 else "num_layers": len(kept) for stack, kept in places.items()}
    return {**section, **fields}, changed
