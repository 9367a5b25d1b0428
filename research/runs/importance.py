"""What the heads and neurons of a trained run are worth."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from research.analysis.importance import importance
from research.parallel.mesh import place_batch
from research.runs.experiment import Experiment

EXAMPLES = 256
"""Training examples that are looked at, evenly spaced."""


def gate_importance(experiment: Experiment, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """`analysis.importance` of a run's model on some of its training examples.

    variables: the model's, their parameters in float32. Of a task that `compares` examples it means nothing.
    """
    examples = experiment.examples("train")
    places = sorted({int(place) for place in np.linspace(0, len(examples) - 1, EXAMPLES)})
    evaluator = experiment.evaluator
    rows = evaluator.split([examples[place] for place in places]).rows
    batches = (place_batch(batch, experiment.mesh) for batch in evaluator.batches(rows))
    rest = {name: tree for name, tree in variables.items() if name != "params"}

    def loss(params: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
        return evaluator.inference.evaluate({"params": params, **rest}, batch)["loss"][0]

    return importance(loss, variables["params"], batches)
