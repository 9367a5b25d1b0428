"""What a step costs before it runs: floating-point operations, bytes per device, collectives, the batch that fits."""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from research.parallel.sharding import by_path

_BITS = {"pred": 8, "bf16": 16, "f8e4m3fn": 8, "f8e5m2": 8}
_FUSED = {"dot_product_attention_fwd_wrapper": 2, "dot_product_attention_bwd_wrapper": 4}
"""Products of queries x keys x head size in cuDNN's attention, as many as the formula has, masked or not."""
_COLLECTIVE = re.compile(r"= (.*?) (all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all)(?:-start)?\(")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")


def flops(function: Callable, *arguments: Any) -> int:
    """Floating-point operations of the matrix products and convolutions of a call: two per multiply-add.

    arguments: arrays, or their abstract shapes. Counted over all devices, from the traced program: loops of known
    length (`scan`) count all their turns, other loops one; of branches the dearest counts.
    """
    return _flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _flops(jaxpr: Jaxpr) -> int:
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation: JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracting, _), _ = params["dimension_numbers"]
        left, out = _shape(equation.invars[0]), _shape(equation.outvars[0])
        return 2 * math.prod(out) * math.prod(left[axis] for axis in contracting)
    if name == "conv_general_dilated":
        kernel, out = _shape(equation.invars[1]), _shape(equation.outvars[0])
        output_channels = kernel[params["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(out) * math.prod(kernel) // output_channels // params["batch_group_count"]
    if products := _FUSED.get(name):
        (batch, queries, heads, size), keys = _shape(equation.invars[0]), _shape(equation.invars[1])[1]
        return products * 2 * batch * heads * queries * keys * size
    inner = [_flops(jaxpr) for jaxpr in _inner(params)]
    if name == "cond":
        return max(inner)
    times = params["length"] if name == "scan" else params["mesh"].size if name == "shard_map" else 1
    return times * sum(inner)


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def kept_products(function: Callable, *arguments: Any) -> int:
    """Bytes of the results of matrix products and convolutions in a call that a backward pass cannot do without.

    A lower bound: of loops and of what is computed twice (`jax.checkpoint`), it counts the largest result alone.
    """
    return _products(jax.make_jaxpr(function)(*arguments).jaxpr, sum)


def _products(jaxpr: Jaxpr, together: Callable[[list[int]], int]) -> int:
    sizes = [0]
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in ("dot_general", "conv_general_dilated"):
            sizes.append(total_bytes(equation.outvars[0].aval))
        inside = max if name in ("scan", "while", "cond", "checkpoint", "remat2") else together
        sizes += [_products(inner, inside) for inner in _inner(equation.params)]
    return together(sizes)


def _inner(params: Mapping[str, Any]) -> list[Jaxpr]:
    found = []
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                found.append(item.jaxpr)
            elif isinstance(item, Jaxpr):
                found.append(item)
    return found


class Group(NamedTuple):
    """Parameters of one kind: the layers' number replaced by *. Bytes are those of all of them together."""

    path: str
    shape: tuple[int, ...]
    spec: tuple[Any, ...]
    count: int
    bytes: int
    bytes_per_device: int


def parameter_groups(params: Any) -> list[Group]:
    """The parameters (arrays or abstract ones, with their shardings), those of equal layers folded into one line."""
    groups: dict[tuple, Group] = {}
    for path, leaf in by_path(params).items():
        key = (re.sub(r"\d+", "*", path), leaf.shape, tuple(leaf.sharding.spec))
        before = groups.get(key, Group(*key, 0, 0, 0))
        sizes = (leaf.size * leaf.dtype.itemsize, bytes_per_device(leaf))
        groups[key] = Group(*key, before.count + 1, before.bytes + sizes[0], before.bytes_per_device + sizes[1])
    return list(groups.values())


def bytes_per_device(tree: Any) -> int:
    """Bytes that one device holds of these arrays (or abstract ones) with their shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def total_bytes(tree: Any) -> int:
    """Bytes of these arrays, each counted once."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


class Memory(NamedTuple):
    """Bytes of one device while a compiled program runs: its arguments, and what it needs besides."""

    arguments: int
    outputs: int
    temporaries: int

    @property
    def total(self) -> int:
        """All of it together."""
        return sum(self)


def memory(compiled: jax.stages.Compiled) -> Memory:
    """What the compiler plans; outputs that take the place of donated arguments are not counted twice."""
    plan = compiled.memory_analysis()
    assert plan is not None  # CPUs, GPUs and TPUs all have one
    outputs = plan.output_size_in_bytes - plan.alias_size_in_bytes
    return Memory(plan.argument_size_in_bytes, outputs, plan.temp_size_in_bytes)


def collectives(program: str) -> dict[str, tuple[int, int]]:
    """{kind: (number, bytes)} of the communication in a compiled program's text; bytes of the results on one device."""
    number: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for shapes, kind in _COLLECTIVE.findall(program):
        number[kind] += 1
        size[kind] += sum(_bytes(*shape) for shape in _SHAPE.findall(shapes))
    return {kind: (number[kind], size[kind]) for kind in sorted(number)}


def _bytes(dtype: str, shape: str) -> int:
    bits = _BITS.get(dtype) or int(re.sub(r"\D", "", dtype) or 0)
    return math.prod(int(size) for size in shape.split(",") if size) * bits // 8


def largest_batch(needed: Callable[[int], int], available: int, *, rows: int, multiple: int, most: int) -> int:
    """The most rows whose step fits, up to `most`, or 0.

    needed: bytes of a step with a number of rows, which is close to a line; asked a handful of times.
    """
    points = {count: needed(count) for count in (rows, 2 * rows)}
    slope = max((points[2 * rows] - points[rows]) / rows, 1e-9)
    guess = min(int(rows + (available - points[rows]) / slope), most) // multiple * multiple
    while guess > 0:
        if guess not in points:
            points[guess] = needed(guess)
        if points[guess] <= available:
            return guess
        guess = min(int(guess * 0.95), guess - multiple) // multiple * multiple
    return 0


def abstract_batch(batch: Mapping[str, np.ndarray], sharding: Any, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch, with another number of rows."""
    return {
        name: jax.ShapeDtypeStruct((rows, *array.shape[1:]), array.dtype, sharding=sharding)
        for name, array in batch.items()
    }
