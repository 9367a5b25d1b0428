"""Ring attention on four devices against one: prints the largest deviations of outputs and gradients as JSON."""

import json

import jax
import jax.numpy as jnp

from research.layers.dot_product import attention_weights, weighted_values
from research.layers.ring import ring_attention
from research.parallel.mesh import MeshShape, make_mesh


def cases(length: int) -> dict[str, dict]:
    """Masks, biases and dropout factors as the layers make them."""
    key = jax.random.key(0)
    causal = jnp.tril(jnp.ones((length, length), bool))[None, None]
    padding = jnp.arange(length)[None] < jnp.array([3, length])[:, None]
    return {
        "plain": {},
        "causal": {"mask": causal},
        "padding": {"mask": padding[:, None, None]},
        "nothing allowed": {"mask": jnp.zeros((1, 1, length, length), bool)},
        "bias": {"bias": 3 * jax.random.normal(key, (1, 4, length, length)), "mask": causal & padding[:, None, None]},
        "dropout": {"weight_factors": 2.0 * jax.random.bernoulli(key, 0.5, (2, 4, length, length))},
    }


def reference(query, key, value, *, mask=None, bias=None, weight_factors=1.0):
    """The formula as it stands."""
    return weighted_values(attention_weights(query, key, mask=mask, bias=bias) * weight_factors, value)


def main() -> None:
    """Prints the deviations of every case and number of key heads."""
    deviations = {}
    for kv_heads, length in ((4, 5), (2, 8)):  # five places over two or four blocks need padding
        shapes = ((2, length, 4, 6), (2, length, kv_heads, 6), (2, length, kv_heads, 5))
        keys = jax.random.split(jax.random.key(1), 3)
        inputs = [2 * jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]
        for name, extras in cases(length).items():

            def run(attention, extras=extras, inputs=inputs):
                output, backward = jax.vjp(lambda *inputs: attention(*inputs, **extras), *inputs)
                return output, *backward(jnp.cos(jnp.arange(output.size)).reshape(output.shape))

            expected = run(reference)
            for axes in ({"data": 1, "sequence": 4}, {"data": 1, "sequence": 2, "tensor": 2}):
                with jax.set_mesh(make_mesh(MeshShape(**axes))):
                    found = jax.jit(lambda run=run: run(ring_attention))()
                worst = max(float(abs(a - b).max()) for a, b in zip(found, expected, strict=True))
                deviations[f"{name}, {kv_heads} key heads, {length}, {axes}"] = worst
    print(json.dumps(deviations))


if __name__ == "__main__":
    main()
