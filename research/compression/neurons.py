"""Narrower feed-forward networks: the least important neurons of their hidden layers leave the arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from research.compression.layers import Arrays, Section
from research.errors import UserError

_DOWN = "/down/kernel"


def keep_neurons(
    section: Mapping[str, Any], arrays: Mapping[str, np.ndarray], importance: Mapping[str, np.ndarray], fraction: float
) -> tuple[Section, Arrays]:
    """The model's section and parameters with the most important fraction of each hidden layer's neurons, at least one.

    importance: [neurons] by the path of each network's `down/kernel`. Raises UserError where there is no such network.
    """
    names = [path.removesuffix(_DOWN) for path in arrays if path.endswith(_DOWN)]
    names = [name for name in names if f"{name}/up/kernel" in arrays]
    if not names:
        raise UserError(f"model {section['name']} has no feed-forward networks to make narrower: leave neurons out")
    changed, kept = dict(arrays), 1
    for name in names:
        worth = importance[name + _DOWN]
        kept = max(1, int(len(worth) * fraction + 0.5))
        chosen = np.sort(np.argsort(-worth, kind="stable")[:kept])
        for part in ("up", "gate"):
            for kind in ("kernel", "bias"):
                if (path := f"{name}/{part}/{kind}") in arrays:
                    changed[path] = np.take(arrays[path], chosen, axis=-1)
        changed[name + _DOWN] = arrays[name + _DOWN][chosen]
    return {**section, "mlp_width": kept}, changed
