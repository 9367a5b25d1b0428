"""The layers of a student beside its teacher's, against float64 numpy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import UserError
from research.models.bert import BERT
from research.models.gpt import GPT
from research.models.resnet import ResNet
from research.models.seq2seq import Seq2Seq
from research.models.vit import ViT
from research.tasks.logits import Logits
from research.training.matched_layers import MatchedLayers, fresh_maps, matched

IMAGES = np.random.default_rng(0).random((4, 8, 8, 1))
WEIGHT = np.array([1, 1, 1, 0], np.float32)
TOKENS = np.array([[5, 6, 7, 0], [5, 6, 0, 0], [5, 6, 7, 8], [5, 5, 5, 5]], np.int32)
SMALL = {"num_heads": 2, "mlp_width": 16}
BERTS = {"vocab_size": 9, "max_length": 4, "dropout": 0.0, "attention_dropout": 0.0, **SMALL}
GPTS = {"vocab_size": 9, "max_length": 4, **SMALL}
SEQ2SEQS = {"vocab_size": 9, "dropout": 0.0, **SMALL}


def shown(model, variables, *inputs):
    """(what the model says, what it shows of its layers)."""
    return jax.jit(lambda *given: model.apply(*given, mutable=["hidden_states", "attention"]))(variables, *inputs)


def pair(name, scan=False):
    """A student and a teacher, their variables, inputs, which tokens count of each stack, and the loss's weights."""
    tokens, valid = jnp.asarray(TOKENS), jnp.asarray(TOKENS > 0)
    models: dict[str, Any] = {
        "bert": (lambda **more: BERT(**BERTS, **more), (tokens, valid), {"encoder": valid}, WEIGHT),
        "gpt": (lambda **more: GPT(**GPTS, **more), (tokens,), {"decoder": valid}, valid * WEIGHT[:, None]),
        "seq2seq": (
            lambda num_layers, **more: Seq2Seq(
                **SEQ2SEQS, **more, num_layers=num_layers, num_decoder_layers=num_layers
            ),
            (tokens, tokens[:, :3], valid),
            {"encoder": valid, "decoder": valid[:, :3]},
            valid[:, :3] * WEIGHT[:, None],
        ),
        "vit": (
            lambda **more: ViT(3, 4, **SMALL, **more),
            (jnp.float32(IMAGES),),
            {"encoder": jnp.ones((4, 5), bool)},
            WEIGHT,
        ),
    }
    make, inputs, counted, weights = models[name]
    student, teacher = make(num_layers=2, width=8, scan=scan), make(num_layers=4, width=12, scan=scan)
    variables = [jax.jit(model.init)(jax.random.key(seed), *inputs) for seed, model in enumerate((student, teacher))]
    return (student, teacher), variables, inputs, counted, Logits(jnp.zeros((*weights.shape, 3)), jnp.asarray(weights))


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("name", ["bert", "gpt", "seq2seq", "vit"])
def test_hidden_states_against_float64(name, scan):
    """Layers 1 and 2 of 2 beside layers 2 and 4 of 4, without padding; rows weigh what they do in the loss."""
    models, variables, inputs, counted, logits = pair(name, scan)
    (_, ours), (_, theirs) = (shown(model, own, *inputs) for model, own in zip(models, variables, strict=True))
    layers = MatchedLayers(ours, theirs, inputs, logits)
    assert layers.shapes() == dict.fromkeys(counted, (8, 12))
    maps = fresh_maps(layers.shapes(), jax.random.key(5))["hidden_maps"]
    rows = np.float64(logits.weights).reshape(4, -1).sum(-1)
    reference = 0.0
    for stack, valid in counted.items():
        states, taught = (np.float64(each["hidden_states"][stack]["states"][0]["states"]) for each in (ours, theirs))
        errors = (states @ np.float64(maps[stack]["kernel"]) - taught[[1, 3]]) ** 2
        for row in range(4):
            if np.asarray(valid)[row].any():
                reference += rows[row] * errors[:, row, np.asarray(valid)[row]].mean() / len(counted)
    assert float(jax.jit(layers.hidden)(maps)) == pytest.approx(reference, rel=1e-4)
    gradient = jax.jit(jax.grad(layers.hidden))(maps)
    assert all(np.abs(each).max() > 1e-4 for each in jax.tree.leaves(gradient))
    if name != "seq2seq":  # the states are those of the contract
        states = jax.jit(lambda *given: models[0].apply(*given, method="hidden_states"))(variables[0], *inputs)
        np.testing.assert_allclose(ours["hidden_states"][stack]["states"][0]["states"], states, atol=1e-5)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("name", ["bert", "gpt", "seq2seq", "vit"])
def test_attention_against_float64(name, scan):
    models, variables, inputs, counted, logits = pair(name, scan)
    (_, ours), (_, theirs) = (shown(model, own, *inputs) for model, own in zip(models, variables, strict=True))
    rows = np.float64(logits.weights).reshape(4, -1).sum(-1)

    def products(collected, stack, number, kind):
        found = collected["attention"][stack]["layers" if scan else f"layer_{number}"][kind]["inputs"][0]
        query, key = (np.float64(found[each][number] if scan else found[each]) for each in ("query", "key"))
        return np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1])

    kinds = [(stack, "self_attention") for stack in counted] + [("decoder", "cross_attention")] * (name == "seq2seq")
    reference = 0.0
    for stack, kind in kinds:
        queries = np.asarray(counted[stack])
        keys = np.asarray(counted["encoder"]) if kind == "cross_attention" or stack == "encoder" else queries | True
        allowed = queries[:, :, None] & keys[:, None]
        if stack == "decoder" and kind == "self_attention":
            allowed &= np.tri(queries.shape[1], dtype=bool)
        for layer, taught in ((0, 1), (1, 3)):
            errors = (products(ours, stack, layer, kind) - products(theirs, stack, taught, kind)) ** 2
            means = [errors[row].mean(0)[allowed[row]].mean() if allowed[row].any() else 0 for row in range(4)]
            reference += (rows * means).sum() / (2 * len(kinds))
    assert float(jax.jit(MatchedLayers(ours, theirs, inputs, logits).attention)()) == pytest.approx(reference, rel=1e-4)


def test_which_layers_are_matched():
    assert matched(3, 12) == [3, 7, 11] and matched(4, 6) == [1, 2, 3, 5] and matched(2, 2) == [0, 1]
    with pytest.raises(UserError, match=r"the model has 3 layers and its teacher 2: set model.num_layers to 2 or less"):
        matched(3, 2)


def test_a_single_head_of_the_teacher_is_not_compared_with_two():
    (student, _), variables, inputs, _, logits = pair("bert")
    other = BERT(**BERTS | {"num_heads": 1}, num_layers=2, width=8)
    (_, ours), (_, theirs) = (
        shown(student, variables[0], *inputs),
        shown(other, jax.jit(other.init)(jax.random.key(0), *inputs), *inputs),
    )
    with pytest.raises(UserError, match=r"head with head, and the model has 2 of them, its teacher 1: set model.num_h"):
        MatchedLayers(ours, theirs, inputs, logits).attention()
    resnet = ResNet(num_classes=3, depths=(1,), width=8, bottleneck=False, small_images=True)
    image = jnp.float32(IMAGES)
    _, none = shown(resnet, jax.jit(resnet.init)(jax.random.key(0), image), image)
    with pytest.raises(UserError, match="of which the model has encoder and its teacher none: set both to 0"):
        MatchedLayers(ours, none, inputs, logits)
