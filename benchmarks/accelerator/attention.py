"""Attention alone in bfloat16, forward and backward: what it calls, its time and memory by length, beside torch's SDPA.

Calls of cuDNN are counted in the compiled text. The floor is the time of the products of a forward and a backward pass,
seven of queries x keys x head size for each head (half of that where attention is causal), at the rate of a large one.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.accelerator.common import (
    Figures,
    compared,
    fail_without_accelerator,
    matmul_rate,
    options,
    other_side,
    seconds_of,
)
from research.layers.dot_product import dot_product_attention

TOKENS, HEADS = 16_384, 12
"""Of a batch, whatever the length; heads are of 64 unless a row says otherwise."""
LENGTHS = (128, 512, 1024, 2048, 4096, 8192, 16_384)
CALLS = 5
BESIDE = ("causal", "none")
"""The masks for which the other side takes its turns."""


def cases(tiny: bool) -> list[dict[str, Any]]:
    """mask: none, causal, causal_array (as an array) or padding (an array [1, 1, 1, keys]); formula: without kernel."""
    lengths = (64, 128) if tiny else LENGTHS
    middle = lengths[len(lengths) // 2]
    plain = {"mask": "causal", "length": middle, "size": 64, "formula": False}
    found = [plain | {"mask": mask, "length": length} for mask in BESIDE for length in lengths]
    found += [plain | {"mask": mask} for mask in ("padding", "causal_array")]
    found += [plain | {"size": size} for size in (32, 48, 128, 256)]
    found += [plain | {"length": middle - 1}, plain | {"mask": "padding", "length": middle - 1}]
    return [*found, plain | {"formula": True}]


def shape_of(case: dict[str, Any], tiny: bool) -> tuple[int, int, int, int]:
    """Batch, length, heads and head size."""
    return max((256 if tiny else TOKENS) // case["length"], 1), case["length"], HEADS, case["size"]


def program(case: dict[str, Any]) -> Callable:
    """Attention of query, key and value, and the gradients of all three under the gradient of the result."""
    length, mask = case["length"], case["mask"]
    given: dict[str, Any] = {"causal": mask == "causal"}
    if mask == "causal_array":
        given["mask"] = jnp.tril(jnp.ones((1, 1, length, length), bool))
    if mask == "padding":
        given["mask"] = (jnp.arange(length) < length - 7)[None, None, None]
    if case["formula"]:  # dropout takes it
        given |= {"dropout": 0.1, "dropout_rng": jax.random.key(0)}

    def attend(query, key, value, upstream):
        attended, pull = jax.vjp(functools.partial(dot_product_attention, **given), query, key, value)
        return attended, pull(upstream)

    return jax.jit(attend)


def what_it_calls(text: str, length: int) -> dict[str, int]:
    """Calls of cuDNN's attention in a compiled program, and lines with an array of queries by keys."""
    calls = [line for line in text.splitlines() if "custom_call_target" in line and "fmha" in line]
    backward = sum("Backward" in line for line in calls)
    square = sum(f"{length},{length}]" in line for line in text.splitlines())
    return {"cudnn_forward": len(calls) - backward, "cudnn_backward": backward, "square_arrays": square}


def main() -> None:
    """The part."""
    arguments = options()
    fail_without_accelerator(arguments.tiny)
    figures = Figures(arguments.output)
    rate = matmul_rate(arguments.tiny)
    figures.note(matmul_teraflops=round(rate / 1e12, 1))
    other = other_side(arguments, "attention")
    for case in cases(arguments.tiny):
        name = " ".join(f"{key}={value}" for key, value in case.items())
        with figures.row(name) as row:
            shape = shape_of(case, arguments.tiny)
            arrays = [jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16) for seed in range(4)]
            compiled = program(case).lower(*arrays).compile()
            row.update(what_it_calls(compiled.as_text() or "", case["length"]))
            row["temporary_megabytes"] = round(compiled.memory_analysis().temp_size_in_bytes / 1e6, 1)

            def turn(compiled=compiled, arrays=arrays) -> float:
                return min(seconds_of(lambda: compiled(*arrays), CALLS, 1))

            beside = other if case["mask"] in BESIDE and not case["formula"] else None
            row.update(
                compared(
                    turn, beside and functools.partial(beside.turn, f"{case['mask']} {' '.join(map(str, shape))}"), 3
                )
            )
            half = 0.5 if case["mask"].startswith("causal") else 1.0
            operations = 2 * 7 * shape[0] * HEADS * case["length"] ** 2 * case["size"] * half
            row["of_floor"] = round(operations / rate / row["seconds"], 3)
    if other:
        other.close()


if __name__ == "__main__":
    main()
