"""What a family of published models is."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from research.models.text_head import Pooling, TextHead
from research.weights.fields import Fields
from research.weights.table import Table

LABELS = object()
"""Stands for the number of classes that `id2label` lists."""


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of model in one library's names.

    name: transformers' `model_type`. model: ours by its name in configs, and its class, `TextHead` where that model
    stands under the new layer of the task. task: what it does, by its name in configs, None where no task here answers
    with it. architectures: the library's classes, and for each the fields of ours that it stands for: several where a
    file says which, the first that fits. made: arrays of theirs by their names, of our model and the pixels on a side
    of its images, that follow from these and are no parameters of ours. pool: of a `TextHead`.
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
