"""A run as the training loop needs it: its options, data, steps and state."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from research.data.loader import Batch, Batches
from research.errors import UserError
from research.parallel.mesh import place_batch
from research.training.durations import Clock, Duration
from research.training.evaluation import Evaluator
from research.training.state import TrainState
from research.training.step import Step


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """The config section `training`.

    batch_size: examples of one update, over all devices; or batch_tokens: tokens of either side of one update, padding
    included, for tasks with sequences of different length. buckets: static lengths that such sequences are padded to.
    repeats: times that each example is in a batch, augmented differently (Hoffer et al. 2020; not for sequences).
    duration: the length of the run.
    evaluate_every: how often the validation split is measured; the end always is.
    log_every: steps whose metrics are averaged into one line of `metrics.jsonl`.
    patience: stop after so many evaluations in a row without a new best of `checkpoint.best`.
    accumulate: micro-batches of one update. ema: decay of an average of the parameters that evaluation then uses.
    precision: dtypes of parameters and computation. workers: processes that read data (0: a thread).
    on_divergence: what follows an update whose loss or gradient is not finite: the run stops, or the update is skipped.
    spike: gradients whose norm exceeds so many times its moving average count as such too.
    """

    duration: Duration
    batch_size: int | None = None
    batch_tokens: int | None = None
    buckets: int = 4
    repeats: int = 1
    evaluate_every: Duration | None = None
    patience: int | None = None
    log_every: int = 50
    accumulate: int = 1
    ema: float | None = None
    precision: str = "params=float32,compute=float32"
    workers: int = 0
    on_divergence: Literal["stop", "skip"] = "stop"
    spike: float | None = None

    def __post_init__(self):
        if (self.batch_size is None) == (self.batch_tokens is None):
            raise UserError("training needs one of batch_size and batch_tokens: give exactly one")
        for name in ("batch_size", "batch_tokens", "buckets", "repeats", "patience", "log_every", "accumulate"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"training.{name} is {value}: use 1 or more")
        if self.on_divergence not in ("stop", "skip"):
            raise UserError(f'training.on_divergence is {self.on_divergence!r}: use "stop" or "skip"')
        if self.spike is not None and not self.spike > 1:
            raise UserError(f"training.spike is {self.spike}: use a number above 1, such as 10")


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything the loop needs, built from a config by `experiments.experiment`.

    abstract_state: shapes, dtypes and shardings. create_state: makes the state of step 0, already sharded.
    teach: a teacher's answers to a batch on the devices, where the task has one.
    """

    folder: Path
    options: TrainingOptions
    step: Step
    mesh: Mesh
    clock: Clock
    batches: Batches
    validation: Sequence[Mapping[str, Any]] | None
    evaluator: Evaluator
    learning_rate: Callable[[int], jax.Array]
    abstract_state: TrainState
    create_state: Callable[[], TrainState]
    teach: Callable[[Mapping[str, jax.Array]], jax.Array] | None = None

    def place(self, batch: Batch) -> dict[str, jax.Array]:
        """This process's rows as global arrays on the mesh, with the `teacher`'s answers to them."""
        placed = place_batch(batch, self.mesh)
        return placed if self.teach is None else {**placed, "teacher": self.teach(placed)}

    def compile_step(self, batch: Mapping[str, jax.Array | jax.ShapeDtypeStruct]) -> jax.stages.Compiled:
        """The train step for batches of this shape; it takes (state, batch), whose state it overwrites."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
        with jax.set_mesh(self.mesh):
            jitted = jax.jit(self.step.train, donate_argnums=0, out_shardings=(shardings, None))
            return jitted.lower(self.abstract_state, batch).compile()
