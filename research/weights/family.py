"""What a family of published models is."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from research.models.text_head import Pooling, TextHead
from research.weights.fields import Field, Fields
from research.weights.table import Table

ENCODER = (
    Field("width", "hidden_size", 768),
    Field("num_layers", "num_hidden_layers", 12),
    Field("num_heads", "num_attention_heads", 12),
    Field("mlp_width", "intermediate_size", 3072),
    Field("norm_epsilon", "layer_norm_eps", 1e-12),
    Field("dropout", "hidden_dropout_prob", 0.0),
)
"""Of an encoder of text or of images."""

LABELS = object()
"""Stands for the number of classes that `id2label` lists."""


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of model in one library's names.

    name: transformers' `model_type`. model: ours by its name in configs, and its class, `TextHead` where that model
    stands under the new layer of the task. task: what it does, by its name in configs, None where no task here answers
    with it. architectures: the library's classes, and for each the fields of ours that it stands for: several where a
    file says which, the first that fits. made: arrays of theirs by their names, of our model and the pixels on a side
    of its images, that follow from these and are not parameters of ours. pool: of a `TextHead`.
    """

    name: str
    model: str
    cls: type
    task: str | None
    tables: Callable[[Any], tuple[Table, ...]]
    fields: Fields
    architectures: Mapping[str, tuple[Mapping[str, Any], ...]]
    made: Callable[[Any, int], Mapping[str, np.ndarray]] = lambda model, size: {}
    pool: Pooling | None = None

    @property
    def headed(self) -> bool:
        """Whether our model stands under the new layer of a task."""
        return self.cls is TextHead


def always(*tables: Table) -> Callable[[Any], tuple[Table, ...]]:
    """The tables of a family that are the same for every model."""
    return lambda model: tables
