import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import build
from research.errors import UserError
from research.training.optimizers import SGD, Adafactor, Adam, AdamW, build_optimizer, check_patterns, layer_depths
from tests.models.tiny import MODELS

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
    updated = {}
    for decay in (1.0, 0.5):
        optimizer = build_optimizer(AdamW(0.1, weight_decay=0.0, layer_decay=decay), lambda step: 1.0)
        updated[decay], _ = optimizer.update(params, optimizer.init(params), params)
    ratios = jax.tree.map(lambda a, b: float(a[0] / b[0]), updated[0.5], updated[1.0])
    assert ratios["head"]["kernel"] == 1 and ratios["encoder"]["layer_1"]["up"]["kernel"] == pytest.approx(1 / 4)
    assert ratios["patch_embedding"]["kernel"] == pytest.approx(1 / 16)


DEPTHS = {
    "swin": (
        {"patch_embedding": 0, "stage_0_block_0": 1, "stage_0_block_1": 2, "stage_1_merge": 3, "stage_1_block_0": 3}
        | {"stage_1_block_1": 4, "norm": 5, "head": 5}
    ),
    "resnet": {"stem": 0, "stage_0_block_0": 1, "stage_1_block_0": 2, "stage_1_block_1": 3, "head": 4},
    "efficientformer": (
        {"stem_0": 0, "stem_1": 0, "stage_0_block_0": 1, "stage_1_embedding": 2, "stage_1_block_0": 2}
        | {"stage_2_embedding": 3, "stage_2_block_0": 3, "stage_3_embedding": 4, "stage_3_block_0": 4}
        | {"stage_3_block_1": 5, "norm": 6, "head": 6, "head_distillation": 6}
    ),
    "mobilenet": (
        {"stem": 0, "row_0_block_0": 1, "row_1_block_0": 2, "row_1_block_1": 3, "row_2_block_0": 4, "row_2_block_1": 5}
        | {"row_2_block_2": 6} | {f"row_3_block_{index}": 7 + index for index in range(4)}
        | {f"row_4_block_{index}": 11 + index for index in range(3)}
        | {f"row_5_block_{index}": 14 + index for index in range(3)}
        | {"row_6_block_0": 17, "last_convolution": 18, "head": 18}
    ),
    "vit": {"cls_token": 0, "position_embedding": 0, "patch_embedding": 0, "head": 3},
    "gpt": {"embedding": 0, "position_embedding": 0},
    "bert": (
        {"embedding": 0, "position_embedding": 0, "segment_embedding": 0, "embedding_norm": 0}
        | {"pooler": 3, "masked": 3, "next_sentence": 3}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DEPTHS)
def test_depths_of_the_parameters_of_our_models(name):
    model, inputs = MODELS[name]
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    found = {part: set(jax.tree.leaves(tree)) for part, tree in layer_depths(params).items()}
    stack = {"vit": "encoder", "gpt": "decoder", "bert": "encoder"}.get(name)
    if stack:
        parts = {part: set(jax.tree.leaves(tree)) for part, tree in layer_depths(params)[stack].items()}
        assert parts == {"layer_0": {1}, "layer_1": {2}} | ({} if name == "bert" else {"norm": {3}})
        del found[stack]
    assert found == {part: {depth} for part, depth in DEPTHS[name].items()}
    check_patterns(AdamW(0.1, layer_decay=0.5), params)


def test_every_head_of_a_vit_has_the_full_rate():
    for fields in ({"distillation": True}, {"pool": "attention"}):
        model, inputs = MODELS["vit"]
        params = jax.eval_shape(model.clone(**fields).init, jax.random.key(0), *inputs)["params"]
        depths = {part: set(jax.tree.leaves(tree)) for part, tree in layer_depths(params).items() if part != "encoder"}
        low = {"patch_embedding", "position_embedding", "cls_token", "distillation_token"}
        assert depths == {part: {0 if part in low else 3} for part in depths} and len(depths) >= 6


def test_rates_of_a_real_model_in_stages():
    """As in BEiT: every block's rate is that of the one above it times the decay."""
    model, inputs = MODELS["resnet"]
    params = jax.tree.map(jnp.ones_like, model.init(jax.random.key(0), *inputs)["params"])
    updates = {}
    for decay in (1.0, 0.5):
        optimizer = build_optimizer(AdamW(0.1, weight_decay=0.0, layer_decay=decay), lambda step: 1.0)
        updates[decay], _ = optimizer.update(params, optimizer.init(params), params)
    ratios = jax.tree.map(lambda a, b: float(a.ravel()[0] / b.ravel()[0]), updates[0.5], updates[1.0])
    rates = {part: set(jax.tree.leaves(tree)) for part, tree in ratios.items()}
    assert rates == {part: {0.5 ** (4 - depth)} for part, depth in DEPTHS["resnet"].items()}


def test_layer_decay_needs_layers():
    with pytest.raises(UserError, match=r"optimizer\.layer_decay finds no parameters named layer_0"):
        check_patterns(AdamW(0.1, layer_decay=0.7), PARAMS)
