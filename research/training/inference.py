"""What a model measures and answers, as pure functions to be jitted."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from research.errors import UserError
from research.tasks.task import Example, Metrics, Task
from research.training.stored import restored


@dataclasses.dataclass(frozen=True)
class Precision:
    """Dtypes of the stored parameters and of the computation. Modules compute in the dtype of their parameters."""

    params: jnp.dtype
    compute: jnp.dtype

    @classmethod
    def parse(cls, policy: str) -> "Precision":
        """From the config's string, such as "params=float32,compute=bfloat16".

        float16 is refused: its gradients underflow unless the loss is scaled, and bfloat16 needs no such care.
        """
        found = re.fullmatch(r"params=(float32),compute=(float32|bfloat16)", policy)
        if not found:
            raise UserError(
                f'training.precision {policy!r} is unknown: use "params=float32,compute=float32" or '
                '"params=float32,compute=bfloat16"'
            )
        return cls(*(jnp.dtype(name) for name in found.groups()))

    def cast(self, tree: Any) -> Any:
        """Every floating-point leaf in the compute dtype."""
        return jax.tree.map(lambda x: x.astype(self.compute) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


@dataclasses.dataclass(frozen=True, eq=False)
class Inference:
    """A model and its task without dropout. Its variables may be kept in fewer bits (`stored`)."""

    model: nn.Module
    task: Task
    precision: Precision

    def evaluate(self, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> Metrics:
        """The task's metrics of a batch."""

        def apply(*inputs, method=None):
            return self.model.apply(self.cast(variables), *inputs, train=False, method=method), {}

        return self.task.loss(apply, batch)[0]

    def predict(self, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> Any:
        """The task's raw answers for a batch."""
        return self.task.predict(self.model, self.cast(variables), batch)

    def stream(self, variables: Mapping[str, Any], batch: Mapping[str, jax.Array], example: Example) -> Iterator[Any]:
        """The task's raw answer to one example as it grows; not to be jitted."""
        return self.task.stream(self.model, self.cast(variables), batch, example)

    def cast(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The variables with parameters in the compute dtype."""
        return {**variables, "params": self.precision.cast(restored(variables["params"]))}
