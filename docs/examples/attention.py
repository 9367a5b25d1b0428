"""The attention of a trained run's model for one input."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.predict import example_of
from research.analysis.attention import attention_weights
from research.runs.experiment import open_run
from research.training.checkpoints import Checkpoints


def attention_of(folder: Path, item: Any) -> dict[str, np.ndarray]:
    """The weights of each layer by its path, float32 [1, heads, queries, keys]; `item` is what `predict` takes."""
    experiment = open_run(folder)
    with Checkpoints(folder / "checkpoints", experiment.checkpoint, write=False) as checkpoints:
        variables, _ = experiment.variables(checkpoints)
    first = np.zeros(1, np.int64)
    batch = experiment.task.questions([example_of(experiment, item)]).batch(first, first, None)
    return attention_weights(experiment.model, variables, *experiment.task.model_inputs(batch))
