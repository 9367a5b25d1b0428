"""The attention of a trained run's model for one input."""

from pathlib import Path
from typing import Any

import numpy as np

from research.analysis.attention import attention_weights
from research.runs.predictor import Predictor


def attention_of(folder: Path, item: Any) -> dict[str, np.ndarray]:
    """The weights of each layer by its path, float32 [1, heads, queries, keys]; `item` is what `predict` takes."""
    predictor = Predictor.open(folder)
    example = predictor.task.example(item)
    view = predictor.task.view(example, predictor.answers([example])[0])
    return attention_weights(predictor.evaluator.inference.model, predictor.variables, *view.inputs)
