"""Set prediction (Carion et al. 2020, section 3.1): which query answers for which object, and how boxes differ."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from research.parallel.mesh import BATCH_AXES, on_mesh, ways

L1, GIOU = 5.0, 2.0
"""Weights of a box's distance and of its generalised IoU, in the matching and in the loss (appendix A.4)."""
LARGEST = 1e6
"""Costs beyond it, and those that are not numbers, count as this much."""


def corners(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Left, top, right and bottom of boxes given by their centre (x, y), width and height."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([centre - size / 2, centre + size / 2], axis=-1)


def centres(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """The inverse of `corners`."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([(low + high) / 2, high - low], axis=-1)


def generalized_iou(a: Float[Array, "*n 4"], b: Float[Array, "*m 4"]) -> Float[Array, "..."]:
    """Intersection over union, less the part of the smallest box around both that neither covers (Rezatofighi et al.
    2019, algorithm 1), from -1 to 1.

    Boxes are left, top, right, bottom; leading axes broadcast. One of two boxes has to have an area.
    """

    def area(low: Array, high: Array) -> Array:
        return jnp.maximum(high - low, 0).prod(axis=-1)

    both = area(jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:]))
    around = area(jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:]))
    union = area(a[..., :2], a[..., 2:]) + area(b[..., :2], b[..., 2:]) - both
    return both / union - (around - union) / around


def assign(cost: Float[Array, "batch *more boxes queries"], counts: Int[Array, "batch"]) -> Int[Array, "..."]:
    """The query of each box, so that their costs together are the least, int32 [batch, ..., boxes].

    counts: boxes of each image, the first ones; the rest get the number `queries`, which no query has. Each query has
    one box at most, so there must be as many of them as boxes. Exact up to the rounding of float32 (the Hungarian
    algorithm by shortest augmenting paths, Jonker & Volgenant 1987, as in Crouse 2016). It has no gradient.
    """
    cost = jnp.nan_to_num(jax.lax.stop_gradient(cost).astype(jnp.float32), nan=LARGEST).clip(-LARGEST, LARGEST)
    one = _assign
    for _ in cost.shape[1:-2]:
        one = jax.vmap(one, in_axes=(0, None))
    every = jax.vmap(one)
    if not on_mesh() or len(cost) % ways(*BATCH_AXES):
        return every(cost, counts)
    batch = PartitionSpec(BATCH_AXES)  # each device loops until its own images are done
    return jax.shard_map(every, in_specs=(batch, batch), out_specs=batch, check_vma=False)(cost, counts)


def _assign(cost: Float[Array, "boxes queries"], count: Int[Array, ""]) -> Int[Array, "boxes"]:
    """Box after box takes a query, along the path of the least reduced cost to a query that is free."""
    boxes, queries = (jnp.arange(size) for size in cost.shape)
    start = (
        jnp.int32(0),
        jnp.zeros(len(boxes)),  # the dual variables of boxes and queries
        jnp.zeros(len(queries)),
        jnp.full(len(queries), -1, jnp.int32),  # the box of each query
        jnp.full(len(boxes), len(queries), jnp.int32),
    )

    def add_box(state: tuple) -> tuple:
        row, of_boxes, of_queries, box_of, query_of = state
        least, shortest, path, done, query = _shortest_path(cost - of_queries, of_boxes, box_of, row)
        visited = done[jnp.minimum(query_of, len(queries) - 1)] & (query_of < len(queries))
        gain = least - shortest[jnp.minimum(query_of, len(queries) - 1)]
        of_boxes = of_boxes + jnp.where(visited, gain, 0) + jnp.where(boxes == row, least, 0)
        of_queries = of_queries - jnp.where(done, least - shortest, 0)

        def pass_on(state: tuple) -> tuple:
            query, box_of, query_of, _ = state
            box = path[query]
            before = query_of[box]
            box_of = jnp.where(queries == query, box, box_of)
            query_of = jnp.where(boxes == box, query, query_of)
            return before, box_of, query_of, box == row

        flip = (query, box_of, query_of, jnp.bool_(False))
        _, box_of, query_of, _ = jax.lax.while_loop(lambda state: ~state[3], pass_on, flip)
        return row + 1, of_boxes, of_queries, box_of, query_of

    return jax.lax.while_loop(lambda state: state[0] < count, add_box, start)[4]


def _shortest_path(
    cost: Float[Array, "boxes queries"], of_boxes: Float[Array, "boxes"], box_of: Int[Array, "queries"], row: Array
) -> tuple[Float[Array, ""], Float[Array, "queries"], Int[Array, "queries"], Bool[Array, "queries"], Int[Array, ""]]:
    """Dijkstra's search from a box to a free query: its distance, all distances known so far, the box before each
    query, the queries whose distance is final, and the free one."""
    queries = jnp.arange(cost.shape[1])

    def step(state: tuple) -> tuple:
        least, box, shortest, path, done, _ = state
        reduced = least + cost[box] - of_boxes[box]
        closer = ~done & (reduced < shortest)
        shortest, path = jnp.where(closer, reduced, shortest), jnp.where(closer, box, path)
        query = jnp.where(done, jnp.inf, shortest).argmin().astype(jnp.int32)
        return shortest[query], box_of[query], shortest, path, done | (queries == query), query

    shortest, path = jnp.full(len(queries), jnp.inf), jnp.zeros(len(queries), jnp.int32)
    start = (jnp.float32(0), row, shortest, path, jnp.zeros(len(queries), bool), jnp.int32(0))
    least, _, shortest, path, done, query = jax.lax.while_loop(lambda state: state[1] >= 0, step, start)
    return least, shortest, path, done, query


def matching_cost(
    probabilities: Float[Array, "*batch queries classes"],
    boxes: Float[Array, "*batch queries 4"],
    labels: Int[Array, "*batch boxes"],
    true: Float[Array, "*batch boxes 4"],
) -> Float[Array, "*batch boxes queries"]:
    """Equation 1 with the paper's weights: minus the probability of the box's class, 5 times the L1 distance of centre,
    width and height, and minus twice the generalised IoU."""
    chosen = jnp.swapaxes(jnp.take_along_axis(probabilities, labels[..., None, :], axis=-1), -1, -2)
    distance = jnp.abs(true[..., :, None, :] - boxes[..., None, :, :]).sum(axis=-1)
    shared = generalized_iou(corners(true)[..., :, None, :], corners(boxes)[..., None, :, :])
    return -chosen + L1 * distance - GIOU * shared
