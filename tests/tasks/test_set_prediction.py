"""Matching and boxes against scipy, brute force and float64 loops."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from research.tasks.set_prediction import assign, centres, corners, generalized_iou, matching_cost

RANDOM = np.random.default_rng(0)
ASSIGN = jax.jit(assign)


def giou(a, b):
    """Of two boxes, by loops over their sides in float64."""

    def area(box):
        return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)

    both = area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    around = area([min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])])
    union = area(a) + area(b) - both
    return both / union - (around - union) / around


def test_generalized_iou_of_any_two_boxes():
    boxes = np.sort(RANDOM.uniform(0, 1, (40, 2, 2)), axis=1).reshape(40, 4)
    boxes[:3] = [[0, 0, 1, 1], [0.2, 0.2, 0.4, 0.4], [0.4, 0.2, 0.6, 0.4]]  # around another, and edge to edge
    found = generalized_iou(jnp.float32(boxes)[:, None], jnp.float32(boxes)[None])
    expected = [[giou(a, b) for b in boxes] for a in boxes]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found[1, 2] == pytest.approx(0, abs=1e-6) and np.allclose(np.diag(found), 1)
    far = generalized_iou(jnp.array([0.0, 0, 0.01, 0.01]), jnp.array([0.99, 0.99, 1, 1]))
    assert far == pytest.approx(-0.9998, abs=1e-5)


def test_corners_and_centres_are_inverse():
    boxes = jnp.array([[0.5, 0.4, 0.2, 0.6]])
    np.testing.assert_allclose(corners(boxes), [[0.4, 0.1, 0.6, 0.7]], atol=1e-6)
    np.testing.assert_allclose(centres(corners(boxes)), boxes, atol=1e-6)


def costs_of(cost, chosen, counts):
    """Of each matrix the sum of what was chosen, float64; a query is chosen once."""
    totals = []
    for matrix, queries, count in zip(np.float64(cost), np.asarray(chosen), counts, strict=True):
        assert len({*queries[:count]}) == count and (queries[count:] == matrix.shape[1]).all()
        totals.append(matrix[np.arange(count), queries[:count]].sum())
    return np.array(totals)


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (6, 6), (20, 100)])
@pytest.mark.parametrize("kind", ["random", "whole numbers", "equal", "large"])
def test_the_least_cost_is_that_of_scipy(shape, kind):
    """Whole numbers have many best assignments, and their sums are exact."""
    count = 60 if shape[1] == 100 else 500
    cost = {
        "random": lambda: RANDOM.normal(size=(count, *shape)),
        "whole numbers": lambda: RANDOM.integers(-2, 3, (count, *shape)),
        "equal": lambda: np.full((count, *shape), 3.0),
        "large": lambda: RANDOM.normal(size=(count, *shape)) * 1e4 - 5e4,
    }[kind]().astype(np.float32)
    counts = RANDOM.integers(0, shape[0] + 1, count)
    chosen = ASSIGN(cost, counts)
    expected = []
    for matrix, rows in zip(np.float64(cost), counts, strict=True):
        expected.append(matrix[:rows][linear_sum_assignment(matrix[:rows])].sum())
    found = costs_of(cost, chosen, counts)
    tolerance = 0 if kind in ("whole numbers", "equal") else 1e-5 * np.abs(cost).max() * shape[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_the_least_cost_is_that_of_all_assignments():
    cost = RANDOM.normal(size=(50, 3, 5)).astype(np.float32)
    chosen = ASSIGN(cost, np.full(50, 3))
    for matrix, queries in zip(cost, np.asarray(chosen), strict=True):
        best = min(itertools.permutations(range(5), 3), key=lambda order: matrix[np.arange(3), list(order)].sum())
        assert tuple(queries.tolist()) == best


def test_costs_that_are_not_numbers_end_too():
    cost = RANDOM.normal(size=(4, 3, 5)).astype(np.float32)
    cost[0, 0, 0], cost[1], cost[2, 1], cost[3, :, 2] = np.nan, np.nan, np.inf, -np.inf
    costs_of(np.zeros_like(cost), ASSIGN(cost, np.full(4, 3)), np.full(4, 3))


def test_every_layer_has_an_assignment_and_no_gradient():
    cost = RANDOM.normal(size=(2, 3, 4, 6)).astype(np.float32)
    chosen = ASSIGN(cost, np.array([4, 2]))
    for image, layer in np.ndindex(2, 3):
        alone = ASSIGN(cost[image : image + 1, layer], np.array([4, 2])[image : image + 1])
        np.testing.assert_array_equal(chosen[image, layer], alone[0])
    gradient = jax.grad(lambda cost: (cost * assign(cost, jnp.array([4, 2]))[..., None]).sum())(cost)
    np.testing.assert_array_equal(gradient, np.broadcast_to(chosen[..., None], cost.shape))


def test_the_cost_is_equation_1():
    probabilities = RANDOM.dirichlet(np.ones(4), 5)
    boxes, true = RANDOM.uniform(0.2, 0.6, (5, 4)), RANDOM.uniform(0.2, 0.6, (3, 4))
    labels = np.array([2, 0, 2])
    found = matching_cost(*map(jnp.float32, (probabilities, boxes)), jnp.asarray(labels), jnp.float32(true))

    def sides(box):
        return [box[0] - box[2] / 2, box[1] - box[3] / 2, box[0] + box[2] / 2, box[1] + box[3] / 2]

    for row, column in np.ndindex(3, 5):
        distance = np.abs(true[row] - boxes[column]).sum()
        wanted = -probabilities[column, labels[row]] + 5 * distance - 2 * giou(sides(true[row]), sides(boxes[column]))
        assert found[row, column] == pytest.approx(wanted, abs=1e-5)
