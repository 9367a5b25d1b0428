"""A linear regression as task, data set and model: small enough to be recomputed in numpy."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from research.data.loader import Batches
from research.data.plans import Shuffled
from research.data.rows import Rows
from research.parallel.mesh import MeshShape, make_mesh
from research.tasks.task import Task
from research.training.durations import Clock, Duration
from research.training.evaluation import Evaluator
from research.training.inference import Precision
from research.training.optimizers import SGD, build_optimizer
from research.training.run import Run, TrainingOptions
from research.training.state import create_state
from research.training.step import Step

FLOAT32 = Precision.parse("params=float32,compute=float32")


class Linear(nn.Module):
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return nn.Dense(1, name="out")(x)[..., 0]


@dataclasses.dataclass(frozen=True)
class Regression(Task):
    poison: int | None = None  # an example that makes the loss NaN

    def model_inputs(self, batch):
        return (batch["x"],)

    def rows(self, examples, *, train, seed):
        return Points(len(examples))

    def loss(self, apply, batch):
        prediction, updates = apply(batch["x"])
        errors = (prediction - batch["y"]) ** 2
        if self.poison is not None:
            errors = jnp.where(batch["index"] == self.poison, jnp.nan, errors)
        return {"loss": ((errors * batch["weight"]).sum(), batch["weight"].sum())}, updates


@dataclasses.dataclass(frozen=True)
class Points(Rows):
    count: int = 64

    def __len__(self):
        return self.count

    def batch(self, indices, epochs, length):
        x = np.stack([np.random.default_rng(int(index)).normal(size=3) for index in indices]).astype(np.float32)
        return {"x": x, "y": (x @ [1.0, -2.0, 0.5] + 3).astype(np.float32), "index": indices.astype(np.int32)}


def make_run(folder, *, steps=20, dropout=0.0, task=None, validation=8, learning_rate=0.05, **options) -> Run:
    """A run of the regression on all devices."""
    folder.mkdir(exist_ok=True)
    task, model = task or Regression(), Linear(dropout)
    options = TrainingOptions(
        **{"batch_size": 8, "duration": Duration(steps=steps), "log_every": 3, "evaluate_every": Duration(steps=5)}
        | options
    )
    optimizer = build_optimizer(SGD(learning_rate, momentum=0.5), lambda step: 1.0)
    mesh = make_mesh(MeshShape())
    replicated = NamedSharding(mesh, PartitionSpec())

    def create():
        return create_state(model, (jnp.zeros((1, 3)),), optimizer, seed=0, ema=options.ema is not None)

    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated), jax.eval_shape(create)
    )
    step = Step(model, task, optimizer, FLOAT32, 0, options.micro_batches, options.ema, options.spike)
    return Run(
        folder=folder,
        options=options,
        step=step,
        mesh=mesh,
        clock=Clock(8, 8, None),
        batches=Batches(Points(), Shuffled(64, 8, 0), steps),
        validation=[{}] * validation,
        evaluator=Evaluator(step.inference, mesh, options.batch_size),
        learning_rate=lambda step: jnp.float32(0.05),
        abstract_state=abstract,
        create_state=jax.jit(create, out_shardings=replicated),
    )
