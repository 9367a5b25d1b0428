import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.tasks.losses import cross_entropy, in_top, vocabulary_loss, weighted


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_against_one_hot_float64(smoothing):
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(3, 4, 7)) * 5, random.integers(0, 7, (3, 4))
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    target = np.eye(7)[labels] * (1 - smoothing) + smoothing / 7
    smoothed, likelihood = cross_entropy(logits.astype(np.float32), labels.astype(np.int32), smoothing)
    np.testing.assert_allclose(smoothed, -(target * log_probabilities).sum(-1), rtol=2e-5)
    np.testing.assert_allclose(
        likelihood, -np.take_along_axis(log_probabilities, labels[..., None], -1)[..., 0], rtol=2e-5
    )


def test_cross_entropy_of_huge_logits_is_finite():
    loss, _ = cross_entropy(np.array([[1e4, -1e4]], np.float32), np.array([1]), 0.1)
    assert np.isfinite(loss).all()


def test_in_top_counts_better_classes():
    logits = np.array([[0.1, 0.5, 0.3], [2.0, 2.0, 1.0], [2.0, 2.0, 1.0], [np.nan] * 3], np.float32)
    assert in_top(logits, np.array([2, 0, 1, 0]), 1).tolist() == [False, True, False, False]
    assert in_top(logits, np.array([2, 0, 1, 0]), 2).tolist() == [True, True, True, False]


@pytest.mark.parametrize(("batch", "length", "smoothing"), [(3, 4, 0.1), (7, 333, 0.1), (2, 1030, 0.0), (1100, 3, 0.3)])
def test_vocabulary_loss_equals_the_plain_one(batch, length, smoothing):
    """One chunk, several, several that do not divide the length, and more rows than a chunk has positions."""
    random = np.random.default_rng(length)
    states, table = random.normal(size=(batch, length, 5)), random.normal(size=(11, 5))
    labels, weights = random.integers(0, 11, (batch, length)), random.integers(0, 2, (batch, length))
    logits = states @ table.T
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = np.eye(11)[labels] * (1 - smoothing) + smoothing / 11
    by_logits = (np.exp(log_probabilities) - targets) * weights[..., None]
    floats = [jnp.float32(array) for array in (states, table)]
    rest = (jnp.int32(labels), jnp.float32(weights), smoothing)
    sums = vocabulary_loss(*floats, *rest)
    expected = [
        -((targets * log_probabilities).sum(-1) * weights).sum(),
        -(np.take_along_axis(log_probabilities, labels[..., None], -1)[..., 0] * weights).sum(),
        ((logits.argmax(-1) == labels) * weights).sum(),
    ]
    np.testing.assert_allclose(sums, expected, rtol=2e-5)
    gradients = jax.grad(lambda *floats: 3 * vocabulary_loss(*floats, *rest)[0], argnums=(0, 1))(*floats)
    np.testing.assert_allclose(gradients[0], 3 * by_logits @ table, atol=2e-5)
    np.testing.assert_allclose(gradients[1], 3 * np.einsum("blv,bld->vd", by_logits, states), rtol=1e-4, atol=1e-3)


def reference_loss(arrays, labels, weights, smoothing, positions=None):
    """The first two results in the plain way, in whatever dtype the arrays have."""
    states = arrays["states"]
    if positions is not None:
        states = jnp.stack([row[chosen] for row, chosen in zip(states, positions, strict=True)])
    logits = states @ arrays["table"].T + arrays.get("bias", 0)
    log_probabilities = jax.nn.log_softmax(logits)
    targets = jnp.eye(logits.shape[-1])[labels] * (1 - smoothing) + smoothing / logits.shape[-1]
    likelihood = jnp.take_along_axis(log_probabilities, labels[..., None], -1)[..., 0]
    return -((targets * log_probabilities).sum(-1) * weights).sum(), -(likelihood * weights).sum()


@pytest.mark.parametrize(("batch", "length", "chosen"), [(3, 8, 4), (7, 400, 333), (2, 5, None)])
@pytest.mark.parametrize("biased", [False, True])
def test_vocabulary_loss_with_a_bias_at_chosen_positions(batch, length, chosen, biased):
    """Against float64 and jax.grad; one chunk and several; positions in any order and named twice."""
    random = np.random.default_rng(length)
    arrays = {"states": random.normal(size=(batch, length, 5)), "table": random.normal(size=(11, 5))}
    arrays |= {"bias": 3 * random.normal(size=11)} if biased else {}
    positions = None if chosen is None else random.integers(0, length, (batch, chosen))
    labels, weights = random.integers(0, 11, (batch, chosen or length)), random.random((batch, chosen or length))
    weights *= random.integers(0, 2, weights.shape)
    with jax.enable_x64(True):
        exact = {name: jnp.float64(array) for name, array in arrays.items()}
        plain = functools.partial(reference_loss, labels=labels, weights=weights, smoothing=0.1, positions=positions)
        expected, slopes = plain(exact), jax.grad(lambda arrays: 3 * plain(arrays)[0])(exact)
        slopes = {name: np.asarray(slope) for name, slope in slopes.items()}

    def loss(arrays):
        where = None if positions is None else jnp.int32(positions)
        rest = (jnp.int32(labels), jnp.float32(weights), 0.1)
        return vocabulary_loss(arrays["states"], arrays["table"], *rest, bias=arrays.get("bias"), positions=where)

    floats = {name: jnp.float32(array) for name, array in arrays.items()}
    np.testing.assert_allclose(loss(floats)[:2], expected, rtol=2e-5)
    found = jax.jit(jax.grad(lambda arrays: 3 * loss(arrays)[0]))(floats)
    assert set(found) == set(slopes)
    for name, slope in slopes.items():
        np.testing.assert_allclose(found[name], slope, rtol=1e-4, atol=1e-4, err_msg=name)


def test_a_bias_decides_what_is_right():
    """States of 0: the answer is the class of the largest bias, here at two of three labels."""
    bias = jnp.array([0.0, 2.0, 1.0])
    sums = vocabulary_loss(jnp.zeros((1, 3, 4)), jnp.ones((3, 4)), jnp.array([[1, 1, 2]]), jnp.ones((1, 3)), bias=bias)
    assert sums[2] == 2
    gradient = jax.grad(lambda bias: vocabulary_loss(
        jnp.zeros((1, 1, 4)), jnp.ones((3, 4)), jnp.array([[0]]), jnp.ones((1, 1)), bias=bias)[0]
    )(bias.astype(jnp.bfloat16))  # fmt: skip
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(gradient, np.exp(bias) / np.exp(bias).sum() - np.eye(3)[0], atol=5e-3)


def test_only_chosen_positions_meet_the_table():
    """8 positions of 512: the compiled loss does less than a tenth of the multiplications."""
    shapes = {"states": (4, 512, 64), "table": (1000, 64), "labels": (4, 8), "weights": (4, 8), "positions": (4, 8)}
    inputs = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    inputs |= {name: jax.ShapeDtypeStruct((4, 8), jnp.int32) for name in ("labels", "positions")}

    def products(**inputs):
        return jax.jit(lambda arrays: vocabulary_loss(**arrays)[0]).lower(inputs).compile().cost_analysis()["flops"]

    every = {name: jax.ShapeDtypeStruct((4, 512), inputs[name].dtype) for name in ("labels", "weights")}
    del (whole := inputs | every)["positions"]
    assert products(**inputs) < products(**whole) / 10


def test_vocabulary_loss_keeps_the_dtype_of_half_precision_and_nan():
    states, table = jnp.ones((2, 3, 4), jnp.bfloat16), jnp.ones((5, 4), jnp.bfloat16)
    labels, weights = jnp.zeros((2, 3), jnp.int32), jnp.ones((2, 3))
    loss, _, right = vocabulary_loss(states * jnp.nan, table, labels, weights)
    assert jnp.isnan(loss) and right == 0 and loss.dtype == jnp.float32
    gradients = jax.grad(lambda *floats: vocabulary_loss(*floats, labels, weights)[0], argnums=(0, 1))(states, table)
    assert [gradient.dtype for gradient in gradients] == [jnp.bfloat16] * 2


def test_vocabulary_loss_never_holds_all_logits():
    """At GPT-2's sizes and 8,192 tokens, the compiled gradient needs less than a quarter of the plain one's memory."""
    inputs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in [
        ((8, 1024, 768), jnp.float32), ((50257, 768), jnp.float32), ((8, 1024), jnp.int32), ((8, 1024), jnp.float32)
    ]]  # fmt: skip

    def plain(states, table, labels, weights):
        return (cross_entropy(states @ table.T, labels)[0] * weights).sum()

    def peak(loss):
        return jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*inputs).compile().memory_analysis().temp_size_in_bytes

    assert peak(lambda *inputs: vocabulary_loss(*inputs)[0]) < peak(plain) / 4


def test_weighted_ignores_weight_zero():
    total, weight = weighted(np.array([1.0, 2.0, 50.0], np.float32), np.array([1.0, 1.0, 0.0], np.float32))
    assert (float(total), float(weight)) == (3.0, 2.0)
