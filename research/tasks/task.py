"""The contract of a task: the only code that knows both the batch and the model."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import flax.linen as nn
import jax
import numpy as np

from research.data.loader import Dataset

Metrics = dict[str, tuple[jax.Array, jax.Array]]
"""Name -> (sum, weight). Added over batches, micro-batches and hosts, then divided: exact for any of these splits."""

Apply = Callable[..., tuple[Any, Mapping[str, Any]]]
"""Calls the model with parameters, mode and random keys bound: `outputs, updates = apply(*inputs)`, where `updates`
are the collections the call changed (BatchNorm statistics)."""


class Task(Protocol):
    """One problem: how its examples become arrays, what is minimised and measured, and how an answer is made.

    A task is a frozen dataclass whose fields are the config section `task`. Examples are dicts as the sources give
    them.
    """

    def prepare(self, source: Any, folder: Path) -> Self:
        """The task with its vocabulary or class names, read from the run's folder or made from the source and saved.

        Only process 0 writes. Raises UserError when what the folder holds does not fit the config.
        """

    def model_fields(self) -> dict[str, Any]:
        """The model's fields that the data decide, such as `vocab_size`."""

    def dataset(self, examples: Sequence[Mapping[str, Any]], *, train: bool, seed: int) -> Dataset:
        """Examples with their answers as arrays for `loss`; `seed` rules what training draws at random."""

    def questions(self, examples: Sequence[Mapping[str, Any]]) -> Dataset:
        """Examples without their answers (a split's, or a person's own) as arrays for `predict`.

        Raises UserError for an input that the model cannot take, such as an empty line.
        """

    def model_inputs(self, batch: Mapping[str, jax.Array]) -> tuple:
        """The positional arguments of the model, for initialisation and for counting its cost."""

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[Metrics, Mapping[str, Any]]:
        """The metrics of a batch, `loss` (what training minimises) among them, and the model's updates.

        Examples whose `batch["weight"]` is 0 count for nothing.
        """

    def predict(self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> Any:
        """Raw answers for a batch: arrays with a leading batch axis. Pure; it is jitted."""

    def answer(self, raw: Any) -> dict[str, Any]:
        """One example's raw answer as a person reads it: a dict of plain values, `text` or `label` among them."""

    scored: ClassVar[bool]
    """Whether `score` measures something that `loss` does not."""

    pad: ClassVar[int | None]
    """The token that fills up a batch's sequences; None where there are none."""

    def score(self, answers: Sequence[Mapping[str, Any]], examples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Metrics of whole answers against raw references, computed on the host."""

    def signatures(self) -> dict[str, str]:
        """What exactly some metrics of `score` are, as a published number has to say; {} where names say it all."""

    def show(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        """One row of a batch as the model sees it, readable: tokens beside their text."""
