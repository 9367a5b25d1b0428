"""A table of tokens as the product of two smaller arrays (ALBERT, Lan et al. 2020, section 3.1)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from research.compression.layers import Arrays, Section
from research.errors import UserError

TABLE, PROJECTION = "embedding/embedding", "embedding_projection/kernel"


def factorise(section: Mapping[str, Any], arrays: Mapping[str, np.ndarray], fraction: float) -> tuple[Section, Arrays]:
    """The model's section and parameters with the nearest table of a fraction of the rank, in the least squares.

    By the singular value decomposition (Eckart & Young 1936): each factor gets the roots of the largest values.
    Raises UserError for a model that has no such table, or that has it in two factors already.
    """
    if section["name"] != "bert" or TABLE not in arrays:
        raise UserError(f"model {section['name']} has no embedding_width: leave rank out")
    if PROJECTION in arrays:
        raise UserError("the table of tokens has two factors already (model.embedding_width): leave rank out")
    table = np.asarray(arrays[TABLE], np.float64)
    rank = max(1, int(table.shape[1] * fraction + 0.5))
    left, values, right = np.linalg.svd(table, full_matrices=False)
    rank = min(rank, len(values))
    roots = np.sqrt(values[:rank])
    factors = {TABLE: left[:, :rank] * roots, PROJECTION: roots[:, None] * right[:rank]}
    changed = {path: factor.astype(np.float32) for path, factor in factors.items()}
    return {**section, "embedding_width": rank}, {**arrays, **changed}
