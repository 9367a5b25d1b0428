"""A run as the training loop needs it: its options, data, steps and state."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
from jax.sharding import Mesh

from research.analysis import cost
from research.data.loader import Batch, Batches
from research.data.plans import Bucketed, Plan, Shuffled, make_buckets
from research.data.rows import Rows
from research.errors import UserError
from research.parallel.mesh import place_batch
from research.ranges import AFTERWARDS, LARGEST, Count, Layers, Range, Rate
from research.training.durations import Clock, Interval
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
    evaluate_every: how often the validation split is measured; the end always is. score_every: how often its answers
    are scored too, such as by BLEU, which takes longer; only at the end unless given, or unless `checkpoint.best` is a
    score, which is then measured at each evaluation.
    log_every: steps whose metrics are averaged into one line of `metrics.jsonl`.
    patience: stop after this number of evaluations in a row without a new best of `checkpoint.best`.
    accumulate: micro-batches of one update, or "auto": as many as memory asks for, chosen before the first step.
    ema: decay of an average of the parameters that evaluation then uses.
    precision: dtypes of parameters and computation. workers: processes that read data (0: a thread).
    on_divergence: what follows an update whose loss or gradient is not finite: the run stops, or the update is skipped.
    spike: gradients whose norm exceeds this many times its moving average count as such too.
    """

    duration: Interval
    batch_size: Count | None = None
    batch_tokens: Count | None = None
    buckets: Layers = 4
    repeats: Count = 1
    evaluate_every: Interval | None = None
    score_every: Interval | None = None
    patience: Count | None = None
    log_every: Count = 50
    accumulate: Count | Literal["auto"] = 1
    ema: Rate | None = None
    precision: str = "params=float32,compute=float32"
    workers: Annotated[int, Range(0, 1000), AFTERWARDS] = 0
    on_divergence: Literal["stop", "skip"] = "stop"
    spike: Annotated[float, Range(1, LARGEST, above=True)] | None = None

    def __post_init__(self):
        if (self.batch_size is None) == (self.batch_tokens is None):
            raise UserError("training needs one of batch_size and batch_tokens: give exactly one")
        if self.repeats > (self.batch_size or self.repeats):
            raise UserError(
                f"training.repeats {self.repeats} is more than training.batch_size {self.batch_size}: use less"
            )

    def plan(self, rows: Rows, seed: int) -> Plan:
        """Which rows each step reads, shuffled. Raises UserError for options that mean nothing for such rows."""
        lengths, tokens = rows.lengths(), rows.tokens()
        if lengths is None or tokens is None:
            if self.batch_size is None:
                raise UserError("training.batch_tokens has no meaning where all examples are equal: use batch_size")
            return Shuffled(len(rows), self.batch_size, seed, self.repeats)
        if self.repeats > 1:
            raise UserError(f"training.repeats {self.repeats} is for images alone: leave it out")
        sizes = {"batch_size": self.batch_size, "batch_tokens": self.batch_tokens}
        buckets = make_buckets(lengths, self.buckets, **sizes)
        return Bucketed(lengths, tokens, buckets, seed)

    @property
    def micro_batches(self) -> int:
        """Those of one update, one where none are chosen yet."""
        return 1 if self.accumulate == "auto" else self.accumulate


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything the loop needs, built from a config by `research.runs.experiment`.

    abstract_state: shapes, dtypes and shardings. create_state: makes the state of step 0, already sharded.
    taught: the variables of the teacher, where there is one.
    belongings: checksums of what the parameters mean nothing without, by the names of its files.
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
    taught: Mapping[str, Any] | None = None
    belongings: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def place(self, batch: Batch) -> dict[str, jax.Array]:
        """This process's rows as global arrays on the mesh."""
        return place_batch(batch, self.mesh)

    def in_micro_batches(self, count: int) -> "Run":
        """The same run with another number of them; its batches stay what they are."""
        return dataclasses.replace(self, step=dataclasses.replace(self.step, accumulate=count))

    def operations(self, batch: Mapping[str, jax.Array | jax.ShapeDtypeStruct]) -> int:
        """FLOPs of a step on batches of this shape, over all devices, without what `model.remat` computes again."""
        step = dataclasses.replace(self.step, model=_keeping(self.step.model))
        with jax.set_mesh(self.mesh):
            return cost.flops(step.train, self.abstract_state, batch, self.taught)

    def compile_step(self, batch: Mapping[str, jax.Array | jax.ShapeDtypeStruct]) -> jax.stages.Compiled:
        """The train step for batches of this shape; it takes (state, batch, taught), whose state it overwrites."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
        with jax.set_mesh(self.mesh):
            jitted = jax.jit(self.step.train, donate_argnums=0, out_shardings=(shardings, None))
            return jitted.lower(self.abstract_state, batch, self.taught).compile()


def _keeping(model: Any) -> Any:
    """The model without `remat`, in its parts too."""
    parts = {
        field.name: _keeping(part)
        for field in dataclasses.fields(model)
        if field.name not in ("parent", "name") and isinstance(part := getattr(model, field.name), nn.Module)
    }
    return model.clone(**parts, **({"remat": "none"} if hasattr(model, "remat") else {}))
