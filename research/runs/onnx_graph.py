"""A pure function of static shapes as an ONNX graph: each operation of its jaxpr becomes one or a few of the format's.

What depends on no input is computed once, here. Operations that the format lacks, and loops, are refused.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from research.errors import UserError

OPSET = 18
SMALL = 1024
"""Bytes of a constant that a graph holds itself; larger ones are in the file that all graphs of a folder share."""

Value = Any
"""A name of the graph, or an array where it is known."""


class Constants:
    """Large arrays in one file, each once."""

    def __init__(self, path: Path):
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}
        self._size = 0
        path.write_bytes(b"")

    def place(self, array: np.ndarray) -> tuple[int, int]:
        """Where the bytes of an array are, and how many."""
        content = array.tobytes()
        key = hashlib.sha256(content).hexdigest()
        if key not in self._places:
            with self.path.open("ab") as file:
                file.write(content)
            self._places[key] = self._size, len(content)
            self._size += len(content)
        return self._places[key]


def onnx_model(function: Callable[..., Mapping[str, Any]], batch: Mapping[str, Any], constants: Constants) -> bytes:
    """The serialised model of a function from named arrays, of these shapes, to named arrays.

    Raises UserError for an operation that the format lacks.
    """
    onnx = _library()
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(dict(batch))
    graph = Graph(onnx, constants)
    names = sorted(batch)  # as the leaves of a dict are
    inputs = []
    for name, variable in zip(names, closed.jaxpr.invars, strict=True):
        shape: Any = variable.aval
        inputs.append(onnx.helper.make_tensor_value_info(name, _type(onnx, shape.dtype), shape.shape))
    found = graph.run(closed.jaxpr, closed.consts, names)
    outputs = []
    for name, value, shape in zip(sorted(shapes), found, jax.tree.leaves(shapes), strict=True):
        graph.nodes.append(onnx.helper.make_node("Identity", [graph.named(value)], [f"out_{name}"]))
        outputs.append(onnx.helper.make_tensor_value_info(f"out_{name}", _type(onnx, shape.dtype), shape.shape))
    made = onnx.helper.make_graph(graph.nodes, "model", inputs, outputs, graph.initializers)
    opset = onnx.helper.make_opsetid("", OPSET)
    return onnx.helper.make_model(made, opset_imports=[opset], ir_version=9).SerializeToString()


def _library() -> Any:
    try:
        import onnx  # pyrefly: ignore[missing-import]
    except ImportError as error:
        raise UserError(
            "--format=onnx needs the package onnx: install the extra export (uv sync --frozen --extra export)"
        ) from error
    return onnx


def _type(onnx: Any, dtype: Any) -> int:
    return onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


class Graph:
    """Nodes and constants as they are added."""

    def __init__(self, onnx: Any, constants: Constants):
        self.onnx, self.constants = onnx, constants
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._known: dict[tuple[str, str, tuple[int, ...]], str] = {}

    def run(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
        """Adds the operations of a jaxpr; its outputs."""
        values = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
        values |= dict(zip(jaxpr.invars, inputs, strict=True))

        def read(variable: Any) -> Value:
            if not isinstance(variable, Literal):
                return values[variable]
            kind: Any = variable.aval
            return np.asarray(variable.val, kind.dtype)

        for equation in jaxpr.eqns:
            given = [read(variable) for variable in equation.invars]
            values |= dict(zip(equation.outvars, self._outputs(equation, given), strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def _outputs(self, equation: Any, given: list[Value]) -> list[Value]:
        name, params = equation.primitive.name, equation.params
        if name == "platform_index":
            places = [number for number, kinds in enumerate(params["platforms"]) if kinds and "cpu" in kinds]
            return [np.int32(places[0] if places else len(params["platforms"]) - 1)]
        if name == "cond" and not isinstance(given[0], str):
            branch = params["branches"][int(np.clip(given[0], 0, len(params["branches"]) - 1))]
            return self.run(branch.jaxpr, branch.consts, given[1:])
        inner = next((params[key] for key in ("call_jaxpr", "fun_jaxpr", "jaxpr") if key in params), None)
        if inner is not None and name not in ("scan", "while"):
            return self.run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), given)
        if not any(isinstance(value, str) for value in given):
            found = equation.primitive.bind(*given, **params)
            return [np.asarray(one) for one in (found if equation.primitive.multiple_results else [found])]
        if name not in OPERATIONS:
            raise UserError(f"ONNX has no form here of the operation {name}, which this model needs: use --format=jax")
        shape = equation.outvars[0].aval
        made = OPERATIONS[name](self, given, params, [one.aval for one in equation.invars], shape)
        return made if isinstance(made, list) else [made]

    def add(self, kind: str, *inputs: Value, **attributes: Any) -> str:
        """The output of a new node."""
        output = f"v{len(self.nodes)}"
        names = [self.named(value) for value in inputs]
        self.nodes.append(self.onnx.helper.make_node(kind, names, [output], **attributes))
        return output

    def named(self, value: Value) -> str:
        """The name of a value, which becomes a constant where it is known."""
        if isinstance(value, str):
            return value
        array = np.ascontiguousarray(value).reshape(np.shape(value))
        key = (hashlib.sha256(array.tobytes()).hexdigest(), array.dtype.str, array.shape)
        if key not in self._known:
            self._known[key] = f"c{len(self._known)}"
            tensor = self.onnx.TensorProto(name=self._known[key], dims=array.shape)
            tensor.data_type = _type(self.onnx, array.dtype)
            if array.nbytes <= SMALL:
                tensor.raw_data = array.tobytes()
            else:
                tensor.data_location = self.onnx.TensorProto.EXTERNAL
                place = dict(zip(("offset", "length"), self.constants.place(array), strict=True))
                for name, text in {"location": self.constants.path.name, **place}.items():
                    tensor.external_data.add(key=name, value=str(text))
            self.initializers.append(tensor)
        return self._known[key]

    def reshaped(self, value: Value, shape: Sequence[int]) -> Value:
        """A value in another shape."""
        if not isinstance(value, str):
            return value.reshape(shape)
        return self.add("Reshape", value, np.array(shape, np.int64))

    def moved(self, value: Value, order: Sequence[int]) -> Value:
        """A value with its axes in another order."""
        if list(order) == sorted(order):
            return value
        return self.add("Transpose", value, perm=list(order)) if isinstance(value, str) else value.transpose(order)


def _plain(kind: str) -> Callable[..., str]:
    return lambda graph, given, params, shapes, out: graph.add(kind, *given)


def _of_bits(logical: str, bitwise: str) -> Callable[..., str]:
    return lambda graph, given, params, shapes, out: graph.add(logical if out.dtype == bool else bitwise, *given)


def _reduced(kind: str) -> Callable[..., str]:
    return lambda graph, given, params, shapes, out: graph.add(
        kind, given[0], np.array(params["axes"], np.int64), keepdims=0
    )


def _power(graph, given, params, shapes, out):
    return graph.add("Pow", given[0], np.asarray(params["y"], out.dtype))


def _broadcast(graph, given, params, shapes, out):
    ones = [1] * len(out.shape)
    for axis, size in zip(params["broadcast_dimensions"], shapes[0].shape, strict=True):
        ones[axis] = size
    value = graph.reshaped(given[0], ones)
    return value if tuple(ones) == out.shape else graph.add("Expand", value, np.array(out.shape, np.int64))


def _slice(graph, given, params, shapes, out):
    steps = params["strides"] or [1] * len(out.shape)
    parts = (params["start_indices"], params["limit_indices"], range(len(out.shape)), steps)
    return graph.add("Slice", given[0], *(np.array([*part], np.int64) for part in parts))


def _split(graph, given, params, shapes, out):
    ends = np.cumsum(params["sizes"])
    parts = zip(ends - params["sizes"], ends, strict=True)
    axis = np.array([params["axis"]], np.int64)
    return [graph.add("Slice", given[0], *(np.array([edge], np.int64) for edge in part), axis) for part in parts]


def _stacked(graph, given, params, shapes, out):
    parts = [graph.reshaped(value, np.expand_dims(np.empty(shapes[0].shape), params["axis"]).shape) for value in given]
    return graph.add("Concat", *parts, axis=params["axis"])


def _unstacked(graph, given, params, shapes, out):
    places = range(shapes[0].shape[params["axis"]])
    return [graph.add("Gather", given[0], np.int64(place), axis=params["axis"]) for place in places]


def _reversed(graph, given, params, shapes, out):
    value = given[0]
    for axis in params["dimensions"]:
        value = graph.add("Gather", value, np.arange(out.shape[axis])[::-1].astype(np.int64), axis=axis)
    return value


def _padded(graph, given, params, shapes, out):
    low, high, between = zip(*params["padding_config"], strict=True)
    if any(between) or min(*low, *high, 0) < 0:
        raise UserError("ONNX pads around an array alone, and this model also within or less than 0: use --format=jax")
    return graph.add("Pad", given[0], np.array([*low, *high], np.int64), given[1])


def _product(graph, given, params, shapes, out):
    """dot_general as a product of matrices, with all batch, free and summed axes made one each."""
    (sum_a, sum_b), (batch_a, batch_b) = params["dimension_numbers"]
    free_a, free_b = (
        [axis for axis in range(len(one.shape)) if axis not in (*summed, *batch)]
        for one, summed, batch in zip(shapes, (sum_a, sum_b), (batch_a, batch_b), strict=True)
    )
    sizes = [
        [int(np.prod([one.shape[axis] for axis in axes], dtype=int)) for axes in group]
        for one, group in zip(shapes, ((batch_a, free_a, sum_a), (batch_b, sum_b, free_b)), strict=True)
    ]
    if not batch_a:
        sizes = [size[1:] for size in sizes]
    a = graph.reshaped(graph.moved(given[0], [*batch_a, *free_a, *sum_a]), sizes[0])
    b = graph.reshaped(graph.moved(given[1], [*batch_b, *sum_b, *free_b]), sizes[1])
    return graph.reshaped(graph.add("MatMul", a, b), out.shape)


def _convolved(graph, given, params, shapes, out):
    """conv_general_dilated, whose axes come in any order, in the format's: batch, channels, places."""
    numbers, places = params["dimension_numbers"], len(out.shape) - 2
    if set(params["lhs_dilation"]) - {1} or params["batch_group_count"] != 1:
        raise UserError("this model's transposed convolutions have no form here in ONNX: use --format=jax")
    low, high = zip(*params["padding"], strict=True)
    images, kernel = graph.moved(given[0], numbers.lhs_spec), graph.moved(given[1], numbers.rhs_spec)
    options = {"strides": params["window_strides"], "dilations": params["rhs_dilation"], "pads": [*low, *high]}
    value = graph.add("Conv", images, kernel, group=params["feature_group_count"], **options)
    return graph.moved(value, [numbers.out_spec.index(axis) for axis in range(places + 2)])


def _pooled(kind: str, **options: Any) -> Callable[..., str]:
    """reduce_window over the middle axes, as of images [batch, height, width, channels]."""

    def pooled(graph, given, params, shapes, out):
        window, axes = params["window_dimensions"], len(out.shape)
        if window[0] != 1 or window[-1] != 1 or {*params["base_dilation"], *params["window_dilation"]} != {1}:
            raise UserError("this model pools in a way that has no form here in ONNX: use --format=jax")
        low, high = zip(*params["padding"][1:-1], strict=True)
        places = {"kernel_shape": window[1:-1], "strides": params["window_strides"][1:-1], "pads": [*low, *high]}
        value = graph.add(kind, graph.moved(given[0], [0, axes - 1, *range(1, axes - 1)]), **places, **options)
        value = graph.moved(value, [0, *range(2, axes), 1])
        return graph.add("Mul", value, np.array(np.prod(window), out.dtype)) if kind == "AveragePool" else value

    return pooled


def _looked_up(graph, given, params, shapes, out):
    """gather of whole rows of a table, as of embeddings."""
    numbers, (table, places) = params["dimension_numbers"], shapes
    rows = (1, *table.shape[1:])
    behind = tuple(range(len(places.shape) - 1, len(out.shape)))
    whole = numbers.start_index_map == (0,) and numbers.collapsed_slice_dims == (0,) and numbers.offset_dims == behind
    if not whole or params["slice_sizes"] != rows or places.shape[-1] != 1:
        raise UserError("this model picks single numbers, which has no form here in ONNX: use --format=jax")
    return graph.add("Gather", given[0], graph.reshaped(given[1], places.shape[:-1]), axis=0)


def _best(graph, given, params, shapes, out):
    (axis,) = params["axes"]
    return graph.add("Cast", graph.add("ArgMax", given[0], axis=axis, keepdims=0), to=_type(graph.onnx, out.dtype))


OPERATIONS: dict[str, Callable[..., Any]] = {
    **{
        name: _plain(kind)
        for name, kind in {
            "add": "Add", "add_any": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min",
            "pow": "Pow", "exp": "Exp", "log": "Log", "tanh": "Tanh", "erf": "Erf", "logistic": "Sigmoid",
            "sqrt": "Sqrt", "neg": "Neg", "abs": "Abs", "sign": "Sign", "floor": "Floor", "ceil": "Ceil", "sin": "Sin",
            "cos": "Cos", "stop_gradient": "Identity", "copy": "Identity", "copy_p": "Identity", "eq": "Equal",
            "optimization_barrier": "Identity", "lt": "Less", "gt": "Greater", "le": "LessOrEqual",
            "ge": "GreaterOrEqual",
        }.items()
    },
    **{name: _reduced(kind) for name, kind in {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax",
                                               "reduce_min": "ReduceMin"}.items()},
    "and": _of_bits("And", "BitwiseAnd"),
    "or": _of_bits("Or", "BitwiseOr"),
    "not": _of_bits("Not", "BitwiseNot"),
    "ne": lambda graph, given, params, shapes, out: graph.add("Not", graph.add("Equal", *given)),
    "rsqrt": lambda graph, given, params, shapes, out: graph.add("Reciprocal", graph.add("Sqrt", *given)),
    "square": lambda graph, given, params, shapes, out: graph.add("Mul", given[0], given[0]),
    "erfc": lambda graph, given, params, shapes, out: graph.add(
        "Sub", np.ones((), out.dtype), graph.add("Erf", *given)
    ),
    "log1p": lambda graph, given, params, shapes, out: graph.add(
        "Log", graph.add("Add", given[0], np.ones((), out.dtype))
    ),
    "integer_pow": _power,
    "clamp": lambda graph, given, params, shapes, out: graph.add("Min", graph.add("Max", given[1], given[0]), given[2]),
    "select_n": lambda graph, given, params, shapes, out: graph.add("Where", given[0], given[2], given[1]),
    "convert_element_type": lambda graph, given, params, shapes, out: graph.add(
        "Cast", given[0], to=_type(graph.onnx, out.dtype)
    ),
    **{name: lambda graph, given, params, shapes, out: graph.reshaped(given[0], out.shape)
       for name in ("reshape", "squeeze", "expand_dims")},
    "transpose": lambda graph, given, params, shapes, out: graph.moved(given[0], params["permutation"]),
    "broadcast_in_dim": _broadcast,
    "concatenate": lambda graph, given, params, shapes, out: graph.add("Concat", *given, axis=params["dimension"]),
    "slice": _slice,
    "split": _split,
    "stack": _stacked,
    "unstack": _unstacked,
    "tile": lambda graph, given, params, shapes, out: graph.add("Tile", given[0], np.array(params["reps"], np.int64)),
    "rev": _reversed,
    "pad": _padded,
    "dot_general": _product,
    "conv_general_dilated": _convolved,
    "reduce_window_max": _pooled("MaxPool"),
    "reduce_window_sum": _pooled("AveragePool", count_include_pad=1),  # a mean, times the size of the window
    "gather": _looked_up,
    "argmax": _best,
}  # fmt: skip
"""What each operation of JAX becomes: functions of the graph, the inputs, the parameters, the inputs' shapes and types,
and those of the output."""
