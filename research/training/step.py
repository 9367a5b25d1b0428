"""One training step as a pure function to be jitted."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from research.tasks.task import Metrics, Task
from research.training.distillation import Distilled
from research.training.inference import Inference, Precision
from research.training.matched_layers import MAPS
from research.training.state import TrainState

NORM_DECAY = 0.99
"""Of the moving average of the gradients' norms that a spike is measured against."""
NORM_UPDATES = 100
"""Updates before that average counts."""


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """The step function of a run.

    accumulate: micro-batches whose gradients are added up before one update.
    ema: decay of the parameters' moving average, or None.
    spike: an update whose gradient norm exceeds this many times its moving average has diverged.
    distilled: the loss with a teacher, if any; `train` is then given the teacher's variables.
    """

    model: nn.Module
    task: Task
    optimizer: optax.GradientTransformation
    precision: Precision
    seed: int
    accumulate: int = 1
    ema: float | None = None
    spike: float | None = None
    distilled: Distilled | None = None

    @property
    def inference(self) -> Inference:
        """The same model and task without dropout."""
        return Inference(self.model, self.task, self.precision)

    def train(
        self, state: TrainState, batch: Mapping[str, jax.Array], taught: Any = None
    ) -> tuple[TrainState, Metrics]:
        """One update. Its randomness is a function of (seed, step). Adds `grad_norm` to the task's metrics.

        An update whose loss or gradient is not finite, or whose gradient's norm is a spike, changes nothing but the
        step; the metric `skipped` is then 1, otherwise 0. taught: the teacher's variables.
        """
        grads, metrics, model_state = self._computed(state, batch, taught)
        # The gradient of the sum, divided once: equal for any number of micro-batches and devices.
        weight = jnp.maximum(metrics["loss"][1], 1e-8)
        grads = jax.tree.map(lambda grad: grad / weight, grads)
        norm = optax.tree.norm(grads)
        diverged = _diverged(state, metrics["loss"][0], norm, self.spike)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema if self.ema is None else optax.incremental_update(params, state.ema, 1 - self.ema)
        updated = TrainState(
            step=state.step,
            params=params,
            opt_state=opt_state,
            model_state=model_state,
            ema=ema,
            accepted=state.accepted + 1,
            norm=NORM_DECAY * state.norm + (1 - NORM_DECAY) * norm,
        )
        state = jax.tree.map(lambda old, new: jnp.where(diverged, old, new), state, updated)
        one = jnp.float32(1)
        metrics |= {"grad_norm": (norm, one), "skipped": (diverged.astype(jnp.float32), one)}
        return state.replace(step=state.step + 1), metrics

    def gradients(self, state: TrainState, batch: Mapping[str, jax.Array], taught: Any = None) -> Any:
        """Those of the summed loss of a batch, as `train` follows them."""
        return self._computed(state, batch, taught)[0]

    def _computed(self, state: TrainState, batch: Mapping[str, jax.Array], taught: Any) -> tuple[Any, Metrics, Any]:
        rng = jax.random.fold_in(jax.random.key(self.seed), state.step)
        return self._accumulated(state, self.task.mixed(batch), rng, taught)

    def _accumulated(
        self, state: TrainState, batch: Mapping[str, jax.Array], rng: jax.Array, taught: Any
    ) -> tuple[Any, Metrics, Any]:
        gradients = functools.partial(self._gradients, state.params, state.model_state, taught=taught)
        if self.accumulate == 1:
            return gradients(batch, rng)

        def add(carry, numbered):
            number, microbatch = numbered
            more = gradients(microbatch, jax.random.fold_in(rng, number))
            return jax.tree.map(jnp.add, carry, more), None

        microbatches = self._microbatches(batch)
        first = jax.tree.map(lambda x: x[0], microbatches)
        shapes = jax.eval_shape(gradients, first, rng)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        sums, _ = jax.lax.scan(add, zeros, (jnp.arange(self.accumulate), microbatches))
        grads, metrics, model_state = sums
        # Every micro-batch starts from the same state: the mean of what they make of it is what the whole batch makes.
        return grads, metrics, jax.tree.map(lambda total: total / self.accumulate, model_state)

    def _microbatches(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """[accumulate, rows, ...]. Every n-th example, not n stretches: each device then finds its rows of every
        micro-batch at home."""
        return jax.tree.map(lambda x: x.reshape(-1, self.accumulate, *x.shape[1:]).swapaxes(0, 1), dict(batch))

    def _gradients(self, params, model_state, batch, rng, *, taught):
        """The gradient of the summed loss, the metrics and the model's new state."""

        distilled, seen = self.distilled, self.distilled.collections if self.distilled else ()

        def summed_loss(params):
            variables = {"params": self.precision.cast(params), **model_state}

            def apply(*inputs, method=None):
                mutable = [*model_state, *seen]
                return self.model.apply(
                    variables, *inputs, train=True, method=method, rngs={"dropout": rng}, mutable=mutable
                )

            if distilled is None:
                metrics, updates = self.task.loss(apply, batch)
            else:
                maps = variables["params"].get(MAPS, {})
                metrics, updates = distilled.loss(self.task, self.model, apply, batch, taught, maps)
            return metrics["loss"][0], (metrics, {**model_state, **updates})

        grads, (metrics, model_state) = jax.grad(summed_loss, has_aux=True)(params)
        return grads, metrics, model_state


def _diverged(state: TrainState, loss: jax.Array, norm: jax.Array, spike: float | None) -> jax.Array:
    diverged = ~(jnp.isfinite(loss) & jnp.isfinite(norm))
    if spike is None:
        return diverged
    mean = state.norm / (1 - NORM_DECAY ** jnp.maximum(state.accepted, 1).astype(jnp.float32))  # Kingma and Ba 2015
    return diverged | ((state.accepted >= NORM_UPDATES) & (norm > spike * mean))
