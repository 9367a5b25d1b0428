"""Smaller models: what is worth nothing leaves without a trace, and what stays is what the paper says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.compression.heads import keep_heads
from research.compression.layers import keep_layers, kept_layers
from research.compression.methods import DEFAULT, check, parse, shrunk
from research.compression.neurons import keep_neurons
from research.compression.rank import factorise
from research.compression.start import apart
from research.errors import UserError
from research.models.bert import BERT
from research.models.gpt import GPT
from research.models.seq2seq import Seq2Seq
from research.models.vit import ViT
from research.parallel.sharding import by_path, path_names
from tests.layers.random_params import random_params

TOKENS = jnp.array([[1, 2, 3, 8], [5, 4, 0, 0]])
SIZES = {"num_layers": 4, "width": 16, "num_heads": 4, "mlp_width": 8}
WORDS = {"vocab_size": 9, "max_length": 8} | SIZES
MODELS = {
    "bert": (BERT, WORDS | {"head": "pretraining"}, (TOKENS, TOKENS > 0)),
    "vit": (
        ViT,
        SIZES | {"num_classes": 3, "patch_size": 4, "pool": "attention"},
        (jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 8, 3)), jnp.float32),),
    ),
    "gpt": (GPT, WORDS | {"num_kv_heads": 2, "activation": "swiglu", "positions": "rotary"}, (TOKENS,)),
    "seq2seq": (
        Seq2Seq,
        WORDS | {"num_decoder_layers": 2, "positions": "relative_bias", "norm": "pre"},
        (TOKENS, TOKENS[:, :3], TOKENS > 0),
    ),
}


def model_of(name):
    """Its section, arrays and what it answers."""
    cls, fields, inputs = MODELS[name]
    params = random_params(cls(**fields), *inputs)["params"]
    return {"name": name} | fields, by_path(jax.device_get(params)), inputs


def answers(section, arrays, inputs):
    fields = {name: value for name, value in section.items() if name != "name"}
    model = MODELS[section["name"]][0](**fields)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    assert {path: leaf.shape for path, leaf in by_path(shapes).items()} == {p: a.shape for p, a in arrays.items()}
    return np.asarray(
        model.apply({"params": jax.tree.map(lambda path: jnp.asarray(arrays[path]), path_names(shapes))}, *inputs)
    )


def all_equal(section):
    """Importance that tells nothing apart."""
    width = section["mlp_width"]
    return lambda path: np.ones(section["num_heads"] if path.endswith("out/kernel") else width)


@pytest.mark.parametrize("name", MODELS)
def test_heads_and_neurons_that_give_nothing_leave_without_a_trace(name):
    section, arrays, inputs = model_of(name)
    group = section["num_heads"] // (section.get("num_kv_heads") or section["num_heads"])
    random, importance = np.random.default_rng(0), {}
    together = section.get("positions") == "relative_bias"
    for path, array in arrays.items():
        if not path.endswith(("attention/out/kernel", "/down/kernel")):
            continue
        heads = path.endswith("out/kernel")
        seed = np.random.default_rng(3) if heads and together and "self_attention" in path else random
        groups = len(array) // (group if heads else 1)
        useless = np.isin(np.arange(groups), seed.permutation(groups)[: groups // 2]).repeat(group if heads else 1)
        arrays[path] = array * ~useless.reshape(-1, *[1] * (array.ndim - 1))
        importance[path] = np.where(useless, 0.0, 1.0)
    whole = answers(section, arrays, inputs)
    smaller, kept = shrunk(section, arrays, {"neurons": 0.5, "heads": 0.5}, lambda: importance)
    assert smaller["num_heads"] == 2 and smaller["head_size"] == 4 and smaller["mlp_width"] == 4
    assert smaller.get("num_kv_heads") == (1 if name == "gpt" else None)
    assert sum(array.size for array in kept.values()) < sum(array.size for array in arrays.values())
    np.testing.assert_allclose(answers(smaller, kept, inputs), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_keeping_everything_is_the_identity(name):
    section, arrays, _ = model_of(name)
    worth = all_equal(section)
    importance = {path: worth(path) for path in arrays}
    for changed, kept in (
        keep_heads(section, arrays, importance, 1.0),
        keep_neurons(section, arrays, importance, 1.0),
        keep_layers(section, arrays, 1.0),
    ):
        assert changed.items() >= section.items()
        assert kept.keys() == arrays.keys() and all(np.array_equal(kept[path], arrays[path]) for path in kept)


@pytest.mark.parametrize("name", ["gpt", "vit"])
def test_layers_that_add_nothing_leave_without_a_trace(name):
    """Pre-norm layers whose sub-layers give 0 are the identity: the second and third of four."""
    section, arrays, inputs = model_of(name)
    for path in arrays:
        if any(f"layer_{number}/" in path for number in (1, 2)) and ("/out/" in path or "/down/" in path):
            arrays[path] = np.zeros_like(arrays[path])
    changed, kept = keep_layers(section, arrays, 0.5)
    assert changed["num_layers"] == 2
    np.testing.assert_allclose(answers(changed, kept, inputs), answers(section, arrays, inputs), rtol=1e-5, atol=1e-5)


def test_encoder_and_decoder_lose_layers_alike():
    section, arrays, inputs = model_of("seq2seq")
    changed, kept = keep_layers(section, arrays, 0.5)
    assert (changed["num_layers"], changed["num_decoder_layers"]) == (2, 1)
    np.testing.assert_array_equal(
        kept["encoder/layer_1/feed_forward/up/bias"], arrays["encoder/layer_3/feed_forward/up/bias"]
    )
    assert answers(changed, kept, inputs).shape == (2, 3, 9)


def test_layers_are_evenly_spaced():
    """DistilBERT's six of BERT's twelve, as its authors' script takes them."""
    assert kept_layers(12, 0.5) == [0, 2, 4, 7, 9, 11]
    assert kept_layers(6, 0.33) == [0, 5] and kept_layers(6, 0.5) == [0, 3, 5] and kept_layers(2, 0.5) == [0]


def test_a_table_in_two_factors():
    """At full rank the same answers; at a lower one the error that Eckart and Young found to be the least."""
    section, arrays, inputs = model_of("bert")
    arrays["embedding/embedding"] = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
    section["vocab_size"], arrays["masked/bias"] = 40, np.linspace(-1, 1, 40, dtype=np.float32)
    whole, kept = factorise(section, arrays, 1.0)
    assert whole["embedding_width"] == 16
    np.testing.assert_allclose(answers(whole, kept, inputs), answers(section, arrays, inputs), rtol=1e-3, atol=1e-4)
    half, kept = factorise(section, arrays, 0.5)
    assert half["embedding_width"] == 8 and kept["embedding_projection/kernel"].shape == (8, 16)
    rest = np.linalg.svd(np.float64(arrays["embedding/embedding"]), compute_uv=False)[8:]
    error = kept["embedding/embedding"] @ kept["embedding_projection/kernel"] - arrays["embedding/embedding"]
    np.testing.assert_allclose(np.linalg.norm(error), np.linalg.norm(rest), rtol=1e-5)
    with pytest.raises(UserError, match="has two factors already"):
        factorise(half, kept, 0.5)


def test_one_layer_for_all_is_that_layer_again_and_again():
    section, arrays, inputs = model_of("bert")
    shared = {path: array for path, array in arrays.items() if "layer_" not in path or "layer_0/" in path}
    repeated = {
        path: shared[f"encoder/layer_0/{path.split('/', 2)[2]}"] if "layer_" in path else array
        for path, array in arrays.items()
    }
    got = answers(section | {"share_layers": True}, shared, inputs)
    np.testing.assert_allclose(got, answers(section, repeated, inputs), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="have one layer's parameters"):
        keep_layers(section | {"share_layers": True}, shared, 0.5)
    with pytest.raises(UserError, match=r"and model[.]scan one for each"):
        BERT(**WORDS, share_layers=True, scan=True).init(jax.random.key(0), TOKENS)


def test_scanned_layers_are_taken_apart():
    arrays = {"encoder/layers/up/kernel": np.arange(6).reshape(3, 2), "head/bias": np.ones(2)}
    found = apart(arrays)
    assert [*found] == [f"encoder/layer_{number}/up/kernel" for number in range(3)] + ["head/bias"]
    np.testing.assert_array_equal(found["encoder/layer_2/up/kernel"], [4, 5])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("layer0.5", "has 'layer0.5': did you mean layers0.5"),
        ("heads2", "has 'heads2': did you mean heads0.5"),
        ("heads0.0", "has 'heads0.0'"),
        ("heads0.5-heads0.5", "has 'heads0.5'"),
        ("int8-layers0.5", "has more behind int8: put bf16, int8 last"),
        ("", "has ''"),
    ],
)
def test_unknown_methods_are_one_sentence(name, sentence):
    with pytest.raises(UserError, match=sentence):
        parse(name)


def test_names_of_candidates():
    assert [parse(name).name for name in DEFAULT] == [*DEFAULT]
    both = parse("layers0.5-int8")
    assert (both.fractions, both.weights, both.trained) == ({"layers": 0.5}, "int8", "layers0.5")
    assert parse("int8").trained is None


def test_models_without_what_is_to_be_left_out():
    model, section = MODELS["gpt"][0](**MODELS["gpt"][1]), {"name": "gpt"}
    check(model, section, {"heads": 0.5, "layers": 0.5, "neurons": 0.5})
    with pytest.raises(UserError, match="model gpt has no embedding_width: leave rank out"):
        check(model, section, {"rank": 0.5})
    rnn = {"encoder/layer_0/kernel": np.ones((2, 2)), "other/layer_0/kernel": np.ones((2, 2))}
    for method in (keep_layers, lambda *given: keep_heads(*given[:2], {}, 0.5)):
        with pytest.raises(UserError, match=r"model rnn has no (layers|attention heads) that can be left out"):
            method({"name": "rnn"}, rnn, 0.5)
    with pytest.raises(UserError, match="model rnn has no feed-forward networks"):
        keep_neurons({"name": "rnn"}, rnn, {}, 0.5)
