"""Every family beside its reference library: hidden states and logits, in both directions, scanned and looped."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from research.layers.scan import stacked
from research.parallel.sharding import path_names
from research.weights.match import check, read, theirs
from research.weights.published import model_inputs, read_published

GOLDEN = Path(__file__).resolve().parents[1] / "fixtures" / "transformers"
NAMES = sorted(path.name for path in GOLDEN.iterdir())
SCANNABLE = [name for name in NAMES if name != "swin"]


def golden(name, scan=False):
    """The published model, its variables of scanned or single layers, and the reference's inputs and answers."""
    published = read_published(GOLDEN / name)
    check(published.match, name)
    arrays = dict(read(published.match, published.arrays))
    model = published.model.clone(scan=scan) if scan else published.model
    inputs = model_inputs(model, published.image_size)
    abstract = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    paths = path_names(abstract["params"])
    arrays = stacked(arrays, set(jax.tree.leaves(paths)))
    variables = {"params": jax.tree.map(lambda path: jnp.asarray(arrays[path]), paths)}
    return published, model, variables, load_file(GOLDEN / name / "answers.safetensors")


def inputs_of(answers):
    if "pixel_values" in answers:
        return (jnp.asarray(answers["pixel_values"].transpose(0, 2, 3, 1)),), {}
    tokens, mask = jnp.asarray(answers["input_ids"], jnp.int32), jnp.asarray(answers["attention_mask"]) > 0
    segments = answers.get("token_type_ids")
    return (tokens, mask), {} if segments is None else {"segments": jnp.asarray(segments, jnp.int32)}


def close(found, expected, valid=None):
    found, expected = np.asarray(found), np.asarray(expected)
    kept = np.ones(found.shape[:1], bool) if valid is None else np.asarray(valid)
    np.testing.assert_allclose(found[kept], expected[kept], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "scan"), [(n, s) for n in NAMES for s in (False, True) if not s or n in SCANNABLE])
def test_answers_are_the_references(name, scan):
    published, model, variables, answers = golden(name, scan)
    (inputs, options), valid = inputs_of(answers), None
    if published.family.model in ("bert", "gpt"):
        valid = inputs[1]
    if published.family.model == "gpt":  # padding comes last, where the causal mask hides it
        inputs = inputs[:1]
    if hasattr(model, "hidden_states"):
        states = model.apply(variables, *inputs, **options, method="hidden_states")
        behind = [answers[f"hidden.{layer}"] for layer in range(1, len(states) + 1)]
        if published.family.model == "bert":  # the others' states are before the final norm, except the last one's
            for state, expected in zip(states, behind, strict=True):
                close(state, expected, valid)
        last = behind[-1] if published.family.model == "gpt" else answers.get("last_hidden_state", None)
        if last is not None:
            close(states[-1], last, valid)
    answer = model.apply(variables, *inputs, **options)
    for key in ("logits", "prediction_logits"):
        if key in answers:
            close(answer, answers[key], valid)
    if "seq_relationship_logits" in answers:
        close(model.apply(variables, *inputs, **options, method="pretraining")[1], answers["seq_relationship_logits"])
    if name == "bert":
        close(model.apply(variables, *inputs, **options, method="pooled"), answers["pooler_output"])
    if name == "deit":
        heads = model.apply(variables, *inputs, method="all_heads")
        for head, key in zip(heads, ("cls_logits", "distillation_logits"), strict=True):
            close(head, answers[key])


@pytest.mark.parametrize("name", NAMES)
def test_every_block_is_the_references(name):
    """The states of models with a norm behind the last layer are compared before it."""
    published, model, variables, answers = golden(name)
    inputs, options = inputs_of(answers)
    if published.family.model == "gpt":
        inputs = inputs[:1]
    method = "levels" if published.family.model == "swin" else None
    _, state = model.apply(variables, *inputs, **options, method=method, capture_intermediates=True)
    inner = state["intermediates"]
    if published.family.model == "swin":
        for stage in range(1):
            blocks = [inner[f"stage_{stage}_block_{index}"]["__call__"][0] for index in range(2)]
            merged = inner[f"stage_{stage + 1}_merge"]["__call__"][0]
            assert blocks[-1].shape[1:3] == (8, 8)
            close(merged.reshape(2, 16, -1), answers[f"hidden.{stage + 1}"])
        return
    stack = inner["decoder" if published.family.model == "gpt" else "encoder"]
    valid = inputs[1] if published.family.model == "bert" else None
    if published.family.model == "gpt":
        valid = jnp.asarray(answers["attention_mask"]) > 0
    last = published.section["num_layers"] - (published.family.model == "gpt")  # whose last state is after the norm
    for layer in range(last):
        close(stack[f"layer_{layer}"]["__call__"][0], answers[f"hidden.{layer + 1}"], valid)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_exported_is_what_was_imported(name):
    """Bit for bit, with every name used or dropped for a reason; importing that again is the identity."""
    published, *_ = golden(name)
    arrays = dict(read(published.match, published.arrays))
    prefixed = bool(published.table.prefix) and any(one.startswith(published.table.prefix) for one in published.arrays)
    again = theirs(published.table, arrays, prefixed=prefixed)
    assert {*published.arrays} == {*again} | {*published.match.dropped}
    for key, array in again.items():
        np.testing.assert_array_equal(array, published.arrays[key])
    config = json.loads((GOLDEN / name / "config.json").read_text())
    written = published.family.fields.theirs({field: value for field, value in vars(published.model).items()})
    assert {key: config.get(key, value) for key, value in written.items()} == written
