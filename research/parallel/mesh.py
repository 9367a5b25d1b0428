"""The device mesh, and how batches and activations lie on it."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from research.errors import UserError
from research.ranges import Range

AXES = ("data", "fsdp", "tensor", "sequence")
BATCH_AXES = ("data", "fsdp")

Axis = Annotated[int, Range(-1, 2**20)]


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """The config section `mesh`: devices along each axis; one axis may be -1 and takes what is left.

    data: replicas of the parameters, each with its share of the batch. fsdp: shares of the batch over which parameters
    and optimizer state are split too (Zhao et al. 2023). tensor: parts of the heads, of the hidden layer and of the
    vocabulary (Shoeybi et al. 2019). sequence: parts of each sequence (ring attention, Liu et al. 2023).
    rules: further sharding rules, from a pattern of parameter paths to the mesh axes of the last dimensions
    (`research.parallel.sharding`), for models whose parameters the built-in rules do not name.
    """

    data: Axis = -1
    fsdp: Axis = 1
    tensor: Axis = 1
    sequence: Axis = 1
    rules: Mapping[str, tuple[str | None, ...]] = dataclasses.field(default_factory=dict)

    def sizes(self, num_devices: int) -> tuple[int, ...]:
        """Devices along each axis. Raises UserError where they do not multiply to `num_devices`."""
        sizes = {axis: getattr(self, axis) for axis in AXES}
        free = [axis for axis, size in sizes.items() if size == -1]
        known = math.prod(size for size in sizes.values() if size != -1)
        if len(free) > 1:
            raise UserError(f"mesh.{free[0]} and mesh.{free[1]} are both -1: only one axis can take what is left")
        if min(sizes.values()) < -1 or not known:
            raise UserError(f"the mesh {_text(sizes)} has an empty axis: use 1 or more devices along each, or one -1")
        if free and num_devices % known == 0:
            sizes[free[0]] = num_devices // known
        if math.prod(sizes.values()) != num_devices:
            remedy = _remedy(sizes, num_devices)
            raise UserError(f"the mesh {_text(sizes)} does not fit {num_devices} devices: {remedy}")
        return tuple(sizes.values())


def _text(sizes: Mapping[str, int]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size != 1) or "data 1"


def _remedy(sizes: Mapping[str, int], num_devices: int) -> str:
    others = math.prod(size for axis, size in sizes.items() if axis != "data")
    if others > 0 and num_devices % others == 0:
        return f"use mesh.data -1 or {num_devices // others}"
    return f"use sizes whose product divides {num_devices}, and mesh.data -1"


def make_mesh(shape: MeshShape, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes of `MeshShape`, over all devices of all processes unless others are given."""
    devices = jax.devices() if devices is None else devices
    # Explicit axis types (today's default) are refused by Linen's Embed and Optax's losses.
    return jax.make_mesh(shape.sizes(len(devices)), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis split over all batch axes of the mesh."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_ways(mesh: Mesh) -> int:
    """The number of parts a batch is split into."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_share(mesh: Mesh) -> tuple[int, int]:
    """(index, count): this process reads part `index` of the `count` equal parts that a batch is cut into.

    Processes that differ only along the tensor or sequence axis read the same part.
    """
    parts = mesh.devices.reshape(batch_ways(mesh), -1)
    mine = [row for row, devices in enumerate(parts) if any(d.process_index == jax.process_index() for d in devices)]
    count, rest = divmod(len(parts), len(mine))
    if rest or mine != list(range(mine[0], mine[0] + len(mine))) or mine[0] % len(mine):
        raise UserError("a process's devices lie apart along the batch axes: give mesh.tensor and mesh.sequence sizes "
                        f"that divide or are multiples of its {jax.local_device_count()} devices")  # fmt: skip
    return mine[0] // len(mine), count


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int, where: str) -> None:
    """Raises UserError unless every device gets the same number of examples in every micro-batch."""
    parts = batch_ways(mesh) * accumulate
    if batch_size < 1 or batch_size % parts:
        lower = batch_size // parts * parts
        choices = f"{lower} or {lower + parts}" if lower > 0 else f"{parts}"
        accumulated = f" in {accumulate} micro-batches" if accumulate > 1 else ""
        raise UserError(
            f"{where} {batch_size} is not divisible by the {batch_ways(mesh)}-way data axis{accumulated}: use {choices}"
        )


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows as global arrays, split over the batch axes."""
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:
        return jax.device_put(dict(batch), sharding)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


def ways(*axes: str) -> int:
    """Devices along these axes of the mesh that `jax.set_mesh` has set around the traced step; 1 without one."""
    sizes = dict(jax.sharding.get_abstract_mesh().shape)
    return math.prod(sizes.get(axis, 1) for axis in axes)


def on_mesh() -> bool:
    """Whether such a mesh is set around the traced step: of a mesh with other axes, layers need not know."""
    return AXES[0] in jax.sharding.get_abstract_mesh().shape


def shard_activations(x: Float[Array, "batch length ..."]) -> Float[Array, "batch length ..."]:
    """Keeps activations split by batch and length, their features whole, under the mesh that is set; without one as is.

    The compiler would else be free to follow the parameters' layout and to gather the batch instead of the weights.
    """
    if not on_mesh():
        return x
    length = "sequence" if x.shape[1] % ways("sequence") == 0 else None
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES, length))


def shard_batch(x: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
    """Keeps activations split by batch alone, under the mesh that is set; without one as is."""
    if not on_mesh():
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES))


def whole_rows(table: Float[Array, "rows width"]) -> Float[Array, "rows width"]:
    """Gathers the columns of a table before its rows are looked up, under the mesh that is set; without one as is."""
    if not on_mesh():
        return table
    return jax.lax.with_sharding_constraint(table, PartitionSpec(PartitionSpec.UNCONSTRAINED, None))
