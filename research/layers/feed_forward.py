"""The position-wise feed-forward network (Vaswani et al. 2017, section 3.3) and its gated form."""

import functools
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
from jaxtyping import Array, Float

Activation = Literal["relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "swiglu", "geglu"]

FUNCTIONS = {
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.silu,
    "swiglu": jax.nn.silu,
    "geglu": functools.partial(jax.nn.gelu, approximate=True),
}
"""The last two are of the gate of a gated network."""
GATED = ("swiglu", "geglu")


class FeedForward(nn.Module):
    """down(activation(up(x))), or down(activation(gate(x)) · up(x)) (Shazeer 2020, equation 6) for "swiglu", whose
    activation is silu, and "geglu", whose activation is gelu_tanh.

    width: of the hidden layer. dropout: rate on the hidden layer.
    """

    width: int
    activation: Activation = "relu"
    dropout: float = 0.0
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.xavier_uniform()
    out_init: Callable = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(self, x: Float[Array, "*batch width"], *, train: bool = False) -> Float[Array, "*batch width"]:
        dense = functools.partial(nn.Dense, use_bias=self.use_bias)
        activate = FUNCTIONS[self.activation]
        hidden = dense(self.width, kernel_init=self.kernel_init, name="up")(x)
        if self.activation in GATED:
            hidden *= activate(dense(self.width, kernel_init=self.kernel_init, name="gate")(x))
        else:
            hidden = activate(hidden)
        hidden = nn.Dropout(self.dropout)(hidden, deterministic=not train)
        return dense(x.shape[-1], kernel_init=self.out_init, name="down")(hidden)
