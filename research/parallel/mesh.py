"""The device mesh and where batches lie on it."""

import dataclasses
import math
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from research.errors import UserError

BATCH_AXES = ("data", "fsdp")


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """The config section `mesh`: devices along each axis; one axis may be -1 and takes what is left.

    data: replicas of the parameters, each with its share of the batch.
    """

    data: int = -1

    def sizes(self, num_devices: int) -> tuple[int, ...]:
        """Devices along each axis. Raises UserError where they do not multiply to `num_devices`."""
        sizes = [self.data, 1]
        if sizes.count(-1) == 1:
            known = math.prod(size for size in sizes if size != -1)
            sizes[sizes.index(-1)] = num_devices // known
        if math.prod(sizes) != num_devices or min(sizes) < 1:
            raise UserError(f"mesh.data {self.data} does not fit {num_devices} devices: use -1 or {num_devices}")
        return tuple(sizes)


def make_mesh(shape: MeshShape) -> Mesh:
    """A mesh over all devices of all processes, with the axes of `MeshShape`."""
    # Explicit axis types (today's default) are refused by Linen's Embed and Optax's losses.
    return jax.make_mesh(shape.sizes(jax.device_count()), BATCH_AXES, axis_types=(AxisType.Auto,) * len(BATCH_AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis split over all batch axes of the mesh."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_ways(mesh: Mesh) -> int:
    """The number of parts a batch is split into."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int, where: str) -> None:
    """Raises UserError unless every device gets the same number of examples in every micro-batch."""
    ways = batch_ways(mesh) * accumulate
    if batch_size < 1 or batch_size % ways:
        lower = batch_size // ways * ways
        choices = f"{lower} or {lower + ways}" if lower > 0 else f"{ways}"
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
