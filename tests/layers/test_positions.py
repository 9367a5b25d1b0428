import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import UserError
from research.layers.positions import (
    LearnedPositions,
    RelativeBias,
    rotary,
    segment_positions,
    sincos_2d,
    sinusoidal,
    sinusoidal_positions,
)


def test_sinusoids_follow_the_papers_formula():
    table = sinusoidal_positions(50, 6)
    for position in range(50):
        for i in range(3):
            angle = position / 10_000 ** (2 * i / 6)
            np.testing.assert_allclose(table[position, 2 * i], math.sin(angle), atol=1e-5)
            np.testing.assert_allclose(table[position, 2 * i + 1], math.cos(angle), atol=1e-5)
    positions = jnp.array([[3, 0], [49, 7]])
    np.testing.assert_allclose(sinusoidal(positions, 6), table[positions], atol=1e-6)
    with pytest.raises(UserError, match="width 5 is odd"):
        sinusoidal_positions(3, 5)


def test_sincos_2d_has_a_quarter_for_each_wave():
    table = sincos_2d(2, 3, 12)
    for y in range(2):
        for x in range(3):
            omega = [10_000 ** -(i / 2) for i in range(3)]
            row = [f(c * w) for f, c in ((math.sin, x), (math.cos, x), (math.sin, y), (math.cos, y)) for w in omega]
            np.testing.assert_allclose(table[y * 3 + x], row, atol=1e-6)
    with pytest.raises(UserError, match="width 10 is not a multiple of 4"):
        sincos_2d(2, 3, 10)


def test_learned_positions_look_up_their_table():
    module = LearnedPositions(5, 3)
    params = module.init(jax.random.key(0), jnp.arange(5))
    table = params["params"]["embedding"]
    positions = jnp.array([[4, 0], [1, 1]])
    np.testing.assert_array_equal(module.apply(params, positions), table[positions])
    assert jnp.isnan(module.apply(params, jnp.array([5]))).all()
    with pytest.raises(UserError, match="length 6 exceeds max_length 5"):
        module.apply(params, jnp.arange(6))


def test_rotary_products_depend_on_the_distance_only():
    generator = np.random.default_rng(0)
    query, key = jnp.asarray(generator.normal(size=(2, 1, 1, 1, 8)), jnp.float32)

    def product(query_position, key_position):
        turned = rotary(query, jnp.array([query_position])), rotary(key, jnp.array([key_position]))
        return float((turned[0] * turned[1]).sum())

    assert product(7, 3) == pytest.approx(product(104, 100), abs=1e-4)
    assert product(7, 3) != pytest.approx(product(7, 4), abs=1e-2)
    np.testing.assert_allclose(rotary(query, jnp.array([0])), query)
    # The first pair turns by one radian per position.
    turned = rotary(jnp.eye(1, 8)[None, None], jnp.array([2]))[0, 0, 0]
    np.testing.assert_allclose(turned[:2], [math.cos(2), math.sin(2)], atol=1e-6)
    assert rotary(query.astype(jnp.bfloat16), jnp.array([1])).dtype == jnp.bfloat16


def test_segment_positions_start_again_with_each_segment():
    segments = jnp.array([[0, 0, 1, 1, 1, 2], [3, 3, 3, 3, 0, 0]])
    expected = [[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 0, 1]]
    np.testing.assert_array_equal(segment_positions(segments), expected)


def bucket_by_the_paper(relative, bidirectional, num_buckets, max_distance):
    """Scalar reference: half of the buckets for exact distances, the rest logarithmic up to max_distance."""
    first = 0
    if bidirectional:
        num_buckets //= 2
        first = num_buckets if relative > 0 else 0
        distance = abs(relative)
    else:
        distance = max(-relative, 0)
    exact = num_buckets // 2
    if distance < exact:
        return first + distance
    # Distances are integers, so comparing powers avoids a rounded logarithm.
    bucket = exact
    while bucket + 1 < num_buckets and (distance / exact) ** (num_buckets - exact) >= (max_distance / exact) ** (
        bucket + 1 - exact
    ) * (1 - 1e-12):
        bucket += 1
    return first + bucket


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 20)])
def test_t5_buckets(bidirectional, num_buckets, max_distance):
    relative = np.arange(-200, 201)
    module = RelativeBias(2, num_buckets, max_distance, bidirectional)
    expected = [bucket_by_the_paper(int(r), bidirectional, num_buckets, max_distance) for r in relative]
    np.testing.assert_array_equal(module.buckets(jnp.asarray(relative)[None])[0], expected)


def test_relative_bias_reads_one_number_per_head_and_bucket():
    module = RelativeBias(3, num_buckets=8, max_distance=20)
    queries, keys = jnp.array([5, 6]), jnp.arange(4)
    params = module.init(jax.random.key(0), queries, keys)
    bias, table = module.apply(params, queries, keys), params["params"]["embedding"]
    assert bias.shape == (1, 3, 2, 4) and table.shape == (8, 3)
    for query in range(2):
        for key in range(4):
            bucket = bucket_by_the_paper(key - (query + 5), True, 8, 20)
            np.testing.assert_array_equal(bias[0, :, query, key], table[bucket])
