"""Fewer attention heads: the least important ones leave their arrays (Michel et al. 2019)."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from research.compression.layers import Arrays, Section
from research.errors import UserError

_OUT = re.compile(r"(?P<layer>(?:(?P<stack>.*)/layer_\d+/)?[^/]*attention)/out/kernel")


def keep_heads(
    section: Mapping[str, Any], arrays: Mapping[str, np.ndarray], importance: Mapping[str, np.ndarray], fraction: float
) -> tuple[Section, Arrays]:
    """The model's section and parameters with the most important fraction of the heads of each attention layer.

    The same number stays in every layer, at least one, in their order and of their size; where queries share keys and
    values, whole groups stay or go. Layers that share a table of relative positions lose the same heads. importance:
    [heads] by the path of each layer's projection `out/kernel`. Raises UserError where there are no heads.
    """
    layers = {found["layer"]: found["stack"] for found in filter(None, map(_OUT.fullmatch, arrays))}
    if not layers or f"{next(iter(layers))}/query/kernel" not in arrays:
        raise UserError(f"model {section['name']} has no attention heads that can be left out: leave heads out")
    first = next(iter(layers))
    heads, size, _ = arrays[f"{first}/out/kernel"].shape
    groups, query_size = arrays[f"{first}/key/kernel"].shape[-2:]
    kept = max(1, int(groups * fraction + 0.5))
    each = heads // groups
    worth = {layer: importance[f"{layer}/out/kernel"].reshape(groups, each).sum(axis=1) for layer in layers}
    together = {layer: _table(arrays, layer, stack) for layer, stack in layers.items()}
    changed = dict(arrays)
    for layer, table in together.items():
        alike = [other for other in layers if table is not None and together[other] == table] or [layer]
        chosen = np.sort(np.argsort(-np.sum([worth[other] for other in alike], axis=0), kind="stable")[:kept])
        of_queries = (chosen[:, None] * each + np.arange(each)).ravel()
        for name, places in (("query", of_queries), ("key", chosen), ("value", chosen)):
            for kind, axis in (("kernel", 1), ("bias", 0)):
                if (path := f"{layer}/{name}/{kind}") in arrays:
                    changed[path] = np.take(arrays[path], places, axis=axis)
        changed[f"{layer}/out/kernel"] = arrays[f"{layer}/out/kernel"][of_queries]
        if table is not None:
            changed[table] = arrays[table][:, of_queries]
    fields: Section = {"num_heads": kept * each, "head_size": query_size}
    if size != query_size or section.get("value_size") is not None:
        fields["value_size"] = size
    if section.get("num_kv_heads") is not None:
        fields["num_kv_heads"] = kept
    return {**section, **fields}, changed


def _table(arrays: Mapping[str, np.ndarray], layer: str, stack: str | None) -> str | None:
    """The path of the relative positions that a layer shares with the others of its stack; None where it has none."""
    path = f"{stack}/relative_bias/embedding"
    return path if layer.endswith("self_attention") and path in arrays else None
