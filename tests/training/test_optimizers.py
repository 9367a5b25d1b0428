import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import build
from research.errors import UserError
from research.training.optimizers import SGD, Adafactor, Adam, AdamW, build_optimizer, check_patterns, layer_depths

PARAMS = {
    "encoder": {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.array([0.1, -0.2])},
    "head": {"kernel": jnp.array([[2.0], [1.0]])},
}
GRADS = [
    jax.tree.map(lambda leaf, scale=scale: scale * jnp.cos(leaf * 3 + scale), PARAMS) for scale in (1.0, 0.3, -0.7)
]


def train(config, factor=lambda step: 1.0 / (step + 1)):
    optimizer = build_optimizer(config, factor)
    params, state = PARAMS, optimizer.init(PARAMS)
    for grads in GRADS:
        updates, state = optimizer.update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return params


def reference_adam(path, learning_rate, decay, multiplier=1.0, clip=None, b1=0.9, b2=0.98, eps=1e-6):
    """Loshchilov & Hutter 2019, algorithm 2, in float64."""
    group, leaf = path
    value = np.asarray(PARAMS[group][leaf], np.float64)
    mean = square = np.zeros_like(value)
    for number, grads in enumerate(GRADS, 1):
        norm = np.sqrt(sum((np.asarray(g, np.float64) ** 2).sum() for g in jax.tree.leaves(grads)))
        grad = np.asarray(grads[group][leaf], np.float64)
        if clip:
            grad = grad * min(1, clip / norm)
        mean = b1 * mean + (1 - b1) * grad
        square = b2 * square + (1 - b2) * grad**2
        step = (mean / (1 - b1**number)) / (np.sqrt(square / (1 - b2**number)) + eps)
        value = value - learning_rate / number * multiplier * (step + decay * value)
    return value


def test_adamw_decays_kernels_only_and_clips():
    params = train(AdamW(0.1, b2=0.98, eps=1e-6, weight_decay=0.3, clip_norm=0.5))
    for path, decay in ((("encoder", "kernel"), 0.3), (("encoder", "bias"), 0.0), (("head", "kernel"), 0.3)):
        expected = reference_adam(path, 0.1, decay, clip=0.5)
        np.testing.assert_allclose(params[path[0]][path[1]], expected, rtol=2e-5)


def test_multipliers_scale_and_freeze_by_path():
    params = train(Adam(0.1, b2=0.98, eps=1e-6, multipliers={"^encoder/kernel": 0.0, "encoder": 0.5}))
    assert (params["encoder"]["kernel"] == PARAMS["encoder"]["kernel"]).all()
    np.testing.assert_allclose(
        params["encoder"]["bias"], reference_adam(("encoder", "bias"), 0.1, 0, multiplier=0.5), rtol=2e-5
    )
    np.testing.assert_allclose(params["head"]["kernel"], reference_adam(("head", "kernel"), 0.1, 0), rtol=2e-5)


def test_sgd_with_momentum():
    params = train(SGD(0.1, momentum=0.9), factor=lambda step: 1.0)
    value, velocity = np.asarray(PARAMS["head"]["kernel"], np.float64), 0.0
    for grads in GRADS:
        velocity = 0.9 * velocity + np.asarray(grads["head"]["kernel"], np.float64)
        value = value - 0.1 * velocity
    np.testing.assert_allclose(params["head"]["kernel"], value, rtol=1e-5)


def test_adafactor_moves_against_the_gradient():
    params = train(Adafactor(0.01))
    moved = np.asarray(params["encoder"]["kernel"] - PARAMS["encoder"]["kernel"])
    assert (moved != 0).all() and np.abs(moved).max() < 0.2


def test_patterns_that_match_nothing_are_refused():
    check_patterns(AdamW(0.1), PARAMS)
    with pytest.raises(UserError, match=r"optimizer\.multipliers 'decoder' matches no parameter"):
        check_patterns(AdamW(0.1, multipliers={"decoder": 0.0}), PARAMS)
    with pytest.raises(UserError, match=r"optimizer\.decay_on is '\(kernel': use a regular expression"):
        build(AdamW, {"learning_rate": 0.1, "decay_on": "(kernel"}, "optimizer")
    with pytest.raises(UserError, match=r"a key of optimizer\.multipliers is '\(head': use a regular expression"):
        build(AdamW, {"learning_rate": 0.1, "multipliers": {"(head": 0.0}}, "optimizer")


def test_layer_decay_shrinks_the_rate_downwards():
    one = {"kernel": jnp.ones(1)}
    params = {
        "patch_embedding": one,
        "encoder": {"layer_0": {"up": one}, "layer_1": {"up": one}, "layer_10": {"up": one}, "norm": one},
        "head": one,
    }
    depths = {"patch_embedding": 0, "layer_0": 1, "layer_1": 2, "layer_10": 3, "norm": 4, "head": 4}
    found = layer_depths(params)
    flat = {**found["encoder"], **{name: found[name] for name in ("patch_embedding", "head")}}
    assert {name: jax.tree.leaves(depth) for name, depth in flat.items()} == {k: [v] for k, v in depths.items()}
    staged = layer_depths({"stage_0": {"layer_1": {"up": one}}, "stage_1": {"merge": one, "layer_0": {"up": one}}})
    assert jax.tree.leaves(staged) == [1, 3, 2]  # in the order of names: stage_0, then layer_0 and merge of stage_1
    updated = {}
    for decay in (1.0, 0.5):
        optimizer = build_optimizer(AdamW(0.1, weight_decay=0.0, layer_decay=decay), lambda step: 1.0)
        updated[decay], _ = optimizer.update(params, optimizer.init(params), params)
    ratios = jax.tree.map(lambda a, b: float(a[0] / b[0]), updated[0.5], updated[1.0])
    assert ratios["head"]["kernel"] == 1 and ratios["encoder"]["layer_1"]["up"]["kernel"] == pytest.approx(1 / 4)
    assert ratios["patch_embedding"]["kernel"] == pytest.approx(1 / 16)


def test_layer_decay_needs_layers():
    with pytest.raises(UserError, match=r"optimizer\.layer_decay finds no parameters named layer_0"):
        check_patterns(AdamW(0.1, layer_decay=0.7), PARAMS)
