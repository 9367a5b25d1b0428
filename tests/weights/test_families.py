"""Every family beside its reference library: hidden states and logits, in both directions, scanned and looped."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from research.layers.scan import stacked
from research.models.two_towers import TwoTowers
from research.models.vit import ViT
from research.parallel.sharding import path_names
from research.weights.families import FAMILIES, taken
from research.weights.match import check, match, read, shapes_of, theirs
from research.weights.published import built, model_inputs, read_published
from research.weights.vit import ORIGINAL

GOLDEN = Path(__file__).resolve().parents[1] / "fixtures" / "transformers"
NAMES = sorted(path.name for path in GOLDEN.iterdir())
TOWERS = ("clip", "siglip")
SCANNABLE = [name for name in NAMES if name not in ("swin", "segformer", "detr", "upernet")]


def golden(name, scan=False):
    """The published model, its variables of scanned or single layers, and the reference's inputs and answers."""
    published = read_published(GOLDEN / name)
    check(published.match, name)
    arrays = dict(read(published.match, published.arrays))
    model = scanned(published.model) if scan else published.model
    inputs = model_inputs(model, published.image_size)
    abstract = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    paths = {name: path_names(tree) for name, tree in abstract.items()}
    arrays = stacked(arrays, set(jax.tree.leaves(paths)))
    variables = jax.tree.map(lambda path: jnp.asarray(arrays[path]), paths)
    return published, model, variables, load_file(GOLDEN / name / "answers.safetensors")


def scanned(model):
    if isinstance(model, TwoTowers):
        return model.clone(image=scanned(model.image), text=scanned(model.text))
    return model.clone(body=scanned(model.body)) if hasattr(model, "body") else model.clone(scan=True)


def inputs_of(answers):
    if "logits_per_image" in answers:
        images, tokens = jnp.asarray(answers["pixel_values"].transpose(0, 2, 3, 1)), jnp.asarray(answers["input_ids"])
        return (images, tokens.astype(jnp.int32), jnp.asarray(answers.get("attention_mask", tokens)) > 0), {}
    if "noise" in answers:  # its order is the order of the patches
        order = jnp.asarray(np.argsort(answers["noise"], axis=1), jnp.int32)
        return (jnp.asarray(answers["pixel_values"].transpose(0, 2, 3, 1)), order), {}
    if "pixel_mask" in answers:
        images, mask = answers["pixel_values"].transpose(0, 2, 3, 1), answers["pixel_mask"]
        return (jnp.asarray(images), jnp.stack([mask.max(axis=2).sum(axis=1), mask.max(axis=1).sum(axis=1)], 1)), {}
    if "pixel_values" in answers:
        return (jnp.asarray(answers["pixel_values"].transpose(0, 2, 3, 1)),), {}
    if "decoder_input_ids" in answers:
        source, target = (jnp.asarray(answers[name], jnp.int32) for name in ("input_ids", "decoder_input_ids"))
        return (source, target, jnp.asarray(answers["attention_mask"]) > 0), {}
    tokens, mask = jnp.asarray(answers["input_ids"], jnp.int32), jnp.asarray(answers["attention_mask"]) > 0
    segments = answers.get("token_type_ids")
    return (tokens, mask), {} if segments is None else {"segments": jnp.asarray(segments, jnp.int32)}


def close(found, expected, valid=None):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    kept = np.ones(found.shape[:1], bool) if valid is None else np.asarray(valid)
    np.testing.assert_allclose(found[kept], expected[kept], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "scan"), [(n, s) for n in NAMES for s in (False, True) if not s or n in SCANNABLE])
def test_answers_are_the_references(name, scan):
    _, model, variables, answers = golden(name, scan)
    inputs, options = inputs_of(answers)
    valid = answers["attention_mask"] > 0 if "attention_mask" in answers and len(inputs) < 3 else None
    if name in TOWERS:
        for key in ("image", "text"):
            vectors = model.apply(variables, *(inputs[:1] if key == "image" else inputs[1:]), method=f"{key}_vectors")
            close(vectors, answers[f"{key}_embeds"])
    if name == "gpt2":  # padding comes last, where the causal mask hides it
        inputs = inputs[:1]
    if name == "detr":
        for found, key in zip(model.apply(variables, *inputs), ("logits", "pred_boxes"), strict=True):
            close(found[-1], answers[key])
        return
    answer = model.apply(variables, *inputs, **options)
    expected = [answers[key] for key in ("logits", "prediction_logits", "logits_per_image") if key in answers]
    if name.endswith("_answers"):
        expected = [np.stack([answers["start_logits"], answers["end_logits"]], axis=-1)]
    if name.endswith("_classes"):
        valid = None
    if name == "bert":
        expected = [answers["last_hidden_state"]]
    if name.startswith(("dinov2", "vit_features")):
        expected = [answers["last_hidden_state"][:, 0]]
    if name in ("segformer", "upernet"):  # the first leaves it to its users to enlarge them
        expected = [jax.image.resize(expected[0].transpose(0, 2, 3, 1), answer.shape, "bilinear")]
    close(answer, expected[0], valid)
    if name == "bert_pretraining":
        close(model.apply(variables, *inputs, **options, method="pretraining")[1], answers["seq_relationship_logits"])
    if name == "bert":
        close(model.apply(variables, *inputs, **options, method="pooled"), answers["pooler_output"])
    if name == "deit":
        for head, key in zip(model.apply(variables, *inputs, method="all_heads"), ("cls", "distillation"), strict=True):
            close(head, answers[f"{key}_logits"])
    if scan and hasattr(model, "hidden_states"):
        states = model.apply(variables, *inputs, **options, method="hidden_states")
        single = golden(name)
        looped = single[1].apply(single[2], *inputs, **options, method="hidden_states")
        close(states, looped)


@pytest.mark.parametrize("name", NAMES)
def test_every_block_is_the_references(name):
    """Of decoders the last state in the golden files is behind the final norm: their logits speak for that block."""
    _, model, variables, answers = golden(name)
    inputs, options = inputs_of(answers)
    inputs = inputs[:1] if name == "gpt2" else inputs
    _, state = model.apply(variables, *inputs, **options, capture_intermediates=True)
    inner = state["intermediates"]
    if name == "swin":  # each state but the last one is what the next stage is given
        close(inner["stage_1_merge"]["__call__"][0].reshape(2, 16, -1), answers["hidden.1"])
        close(inner["stage_1_block_1"]["__call__"][0].reshape(2, 16, -1), answers["hidden.2"])
        return
    if name == "upernet":  # what the stages give, before the norms of the levels
        for state, module in enumerate(("patch_embedding", "stage_0_block_1", "stage_1_block_1", "stage_2_block_1")):
            close(inner["backbone"][module]["__call__"][-1], answers[f"hidden.{state}"].transpose(0, 2, 3, 1))
        return
    if name == "segformer":
        for stage in range(4):
            close(inner[f"stage_{stage}_norm"]["__call__"][0], answers[f"hidden.{stage}"].transpose(0, 2, 3, 1))
        return
    valid = answers["attention_mask"] > 0 if "attention_mask" in answers else None
    if name in TOWERS:
        for layer in range(2):
            close(inner["image"]["encoder"][f"layer_{layer}"]["__call__"][0], answers[f"vision.{layer + 1}"])
            close(inner["text"]["decoder"][f"layer_{layer}"]["__call__"][0], answers[f"text.{layer + 1}"], valid)
        return
    if name == "detr":  # of the second image 3 x 2 of 4 x 3 places
        valid = np.zeros((2, 4, 3), bool)
        valid[0], valid[1, :3, :2] = True, True
        valid = valid.reshape(2, -1)
        close(inner["project"]["__call__"][0], answers["encoder.0"])
        close(inner["decoder"]["norm"]["__call__"][0][-1], answers["decoder.2"])
    both = len(inputs) == 3 or name == "detr"
    stacks = {"encoder": "encoder", "decoder": "decoder"} if both else {"hidden": "encoder"}
    stacks = {"hidden": "decoder"} if name == "gpt2" else stacks
    normed_last = name == "gpt2" or name.startswith("t5")
    for key, ours in stacks.items():
        for layer in range(2 - (normed_last or (name, key) == ("detr", "decoder"))):
            found = inner[ours][f"layer_{layer}"]["__call__"][0]
            if name == "dinov2_registers":  # behind the class token there, last here
                found = jnp.concatenate([found[:, :1], found[:, -2:], found[:, 1:-2]], axis=1)
            close(found, answers[f"{key}.{layer + 1}"], valid if key != "decoder" else None)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_exported_is_what_was_imported(name):
    """Bit for bit, with every name used or dropped for a reason; importing that again is the identity."""
    published, *_ = golden(name)
    arrays = dict(read(published.match, published.arrays))
    prefixed = bool(published.table.prefix) and any(one.startswith(published.table.prefix) for one in published.arrays)
    again = theirs(published.table, arrays, prefixed=prefixed)
    spelt, names = published.table.spelt, published.match.names
    made = published.family.made(published.model, published.image_size)
    assert made.keys() <= {spelt(key) for key in published.match.dropped}
    for key, array in made.items():  # computed in float64 there
        np.testing.assert_allclose(array, published.arrays[names[key]], atol=1e-6)
    assert {spelt(key) for key in published.arrays} == {spelt(key) for key in (*again, *published.match.dropped)}
    for key, array in again.items():
        exact = not key.endswith("running_var")  # our moving average of squares has fewer digits of a variance
        same = np.testing.assert_array_equal if exact else np.testing.assert_allclose
        same(array, published.arrays[names[spelt(key)]])
    once_more = dict(read(match(published.table, {x: y.shape for x, y in arrays.items()}, again), again))
    assert all(np.array_equal(once_more[path], array) for path, array in arrays.items())
    config = json.loads((GOLDEN / name / "config.json").read_text())
    written = published.family.fields.theirs(vars(getattr(published.model, "body", published.model)))
    assert published.family.fields.ours(written) == published.family.fields.ours(config)


@pytest.mark.parametrize(("kind", "parameters"), [("clip", 151_277_313), ("siglip", 203_155_970)])
def test_a_config_without_keys_is_the_published_base_model(kind, parameters):
    """As many parameters as transformers' `CLIPModel(CLIPConfig())` and `SiglipModel(SiglipConfig())` have."""
    family = next(one for one in FAMILIES if one.name == kind)
    ((variant,),) = family.architectures.values()
    model = built(family.model, family.fields.ours({}) | variant)
    shapes = shapes_of(model, model_inputs(model, 224))
    assert sum(math.prod(shape) for shape in shapes.values()) == parameters


def test_the_original_vit(tmp_path):
    """timm's golden ViT in the names and the layout of google-research/vision_transformer, as an .npz file."""
    folder = GOLDEN.parent / "golden"
    arrays = load_file(folder / "vit.safetensors")
    weights = {name.removeprefix("weights/"): array for name, array in arrays.items() if name.startswith("weights/")}
    model = ViT(10, patch_size=8, width=32, num_layers=2, num_heads=4, mlp_width=128)
    ours = taken(model, model_inputs(model, 32), weights)
    np.savez(tmp_path / "vit.npz", **theirs(ORIGINAL, ours, prefixed=False), **{"pre_logits/bias": np.ones(3)})
    published = read_published(tmp_path / "vit.npz")
    check(published.match, "vit.npz")
    assert published.model == model and published.image_size == 32
    again = dict(read(published.match, published.arrays))
    assert again.keys() == ours.keys() and all(np.array_equal(again[path], ours[path]) for path in ours)
