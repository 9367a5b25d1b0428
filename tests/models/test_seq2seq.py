import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.decoding.cache import init_cache
from research.errors import UserError
from research.models.seq2seq import SIZES, Seq2Seq
from tests.layers.random_params import random_params

VOCAB = 11
POSITIONS = ["sinusoidal", "learned", "rotary", "shaw", "relative_bias"]
SOURCE = jnp.array([[3, 4, 5, 6, 7, 8], [9, 10, 3, 0, 0, 0]])
TARGET = jnp.array([[1, 3, 4, 5, 6], [1, 7, 8, 9, 10]])
VALID = SOURCE != 0


def tiny(**fields):
    return Seq2Seq(VOCAB, **{"num_layers": 2, "width": 8, "num_heads": 2, "mlp_width": 16, "max_length": 8} | fields)


def count(**fields):
    token, valid = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)
    params = jax.eval_shape(Seq2Seq(37_000, **fields).init, jax.random.key(0), token, token, valid)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6


@pytest.mark.parametrize(("size", "millions"), [("base", 63.08), ("big", 214.2)])
def test_parameters_of_the_published_sizes(size, millions):
    assert count(**SIZES[size]) == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(
    ("fields", "millions"),
    [
        ({"num_layers": 2}, 36),
        ({"num_layers": 4}, 50),
        ({"num_layers": 8}, 80),
        ({"width": 256, "head_size": 32}, 28),
        ({"width": 1024, "head_size": 128}, 168),
        ({"mlp_width": 1024}, 53),
        ({"mlp_width": 4096}, 90),
        ({"head_size": 16, "value_size": 64}, 58),
        ({"head_size": 32, "value_size": 64}, 60),
    ],
)
def test_rows_of_table_3_differ_from_base_as_published(fields, millions):
    # The paper's base row says 65: its vocabulary is a little larger than 37,000, by 2 million parameters at width 512.
    surplus = 1.92 * fields.get("width", 512) / 512
    assert count(**fields) + surplus == pytest.approx(millions, abs=1.0)


@pytest.mark.parametrize("positions", POSITIONS)
def test_nothing_leaks_from_the_future_or_from_padding(positions):
    model = tiny(positions=positions)
    params = random_params(model, SOURCE, TARGET, VALID)
    apply = jax.jit(model.apply)
    logits = apply(params, SOURCE, TARGET, VALID)
    assert logits.shape == (2, 5, VOCAB) and logits.dtype == jnp.float32
    future = apply(params, SOURCE, TARGET.at[:, 3:].set(2), VALID)
    np.testing.assert_allclose(future[:, :3], logits[:, :3], atol=1e-6)
    assert not np.allclose(future[:, 3:], logits[:, 3:], atol=1e-3)
    padding = apply(params, jnp.where(VALID, SOURCE, 2), TARGET, VALID)
    np.testing.assert_allclose(padding, logits, atol=1e-6)
    shorter = apply(params, SOURCE[1:, :3], TARGET[1:], VALID[1:, :3])
    np.testing.assert_allclose(shorter, logits[1:], atol=1e-5)
    assert not np.allclose(apply(params, SOURCE.at[0, 0].set(2), TARGET, VALID)[0], logits[0], atol=1e-3)


@pytest.mark.parametrize(
    ("positions", "scan"),
    [*((kind, False) for kind in POSITIONS), ("none", False), ("shaw", True), ("relative_bias", True)],
)
def test_cached_decoding_equals_the_uncached_logits(positions, scan):
    model = tiny(positions=positions, scan=scan)
    params = random_params(model, SOURCE, TARGET, VALID)
    expected = jax.jit(model.apply)(params, SOURCE, TARGET, VALID)
    memory = model.apply(params, SOURCE, VALID, method="encode")

    @jax.jit
    def decode(tokens, cache, index, memory):
        logits, state = model.apply(
            {**params, "cache": cache}, tokens, memory, VALID, cache_index=index, method="decode", mutable=["cache"]
        )
        return logits, state["cache"]

    cache = init_cache(model, jnp.zeros((2, 7), jnp.int32), memory, VALID, method="decode")
    outputs, start = [], 0
    for size in (2, 1, 1, 1):
        # The memory is projected by the first call only.
        chunk = TARGET[:, start : start + size]
        logits, cache = decode(chunk, cache, jnp.int32(start), None if start else memory)
        outputs.append(logits)
        start += size
    np.testing.assert_allclose(jnp.concatenate(outputs, axis=1), expected, atol=2e-5)


@pytest.mark.parametrize("positions", [*POSITIONS, "none"])
def test_every_position_kind_but_none_tells_orders_of_the_source_apart(positions):
    model = tiny(positions=positions)
    params = random_params(model, SOURCE, TARGET, VALID)
    apply = jax.jit(model.apply)
    swapped = SOURCE.at[0, 1].set(SOURCE[0, 2]).at[0, 2].set(SOURCE[0, 1])
    same = np.allclose(apply(params, swapped, TARGET, VALID)[0], apply(params, SOURCE, TARGET, VALID)[0], atol=1e-3)
    assert same == (positions == "none")


def test_half_precision_parameters_make_half_precision_hidden_states():
    model = tiny(positions="sinusoidal")
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), random_params(model, SOURCE, TARGET, VALID))
    assert model.apply(params, SOURCE, VALID, method="encode").dtype == jnp.bfloat16
    for other in (model, tiny(share_embeddings=False, positions="shaw"), tiny(positions="relative_bias", norm="pre")):
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), random_params(other, SOURCE, TARGET, VALID))
        logits, state = other.apply(params, SOURCE, TARGET, VALID, capture_intermediates=True)
        assert logits.dtype == jnp.float32
        assert {leaf.dtype for leaf in jax.tree.leaves(state["intermediates"]["decoder"])} == {jnp.dtype("bfloat16")}


def test_names_of_parameters():
    def names(**fields):
        model = tiny(**fields)
        return jax.eval_shape(model.init, jax.random.key(0), SOURCE, TARGET, VALID)["params"]

    shared = names()
    assert set(shared) == {"embedding", "encoder", "decoder"} and "norm" not in shared["decoder"]
    assert set(shared["decoder"]["layer_0"]) == {
        f"{part}{suffix}" for part in ("self_attention", "cross_attention", "feed_forward") for suffix in ("", "_norm")
    }
    pre = names(norm="pre", num_decoder_layers=1, scan=True)
    assert "norm" in pre["encoder"] and "norm" in pre["decoder"]
    assert pre["decoder"]["layers"]["feed_forward"]["up"]["kernel"].shape == (1, 8, 16)
    untied = {"source_embedding", "target_embedding", "output_embedding", "encoder", "decoder"}
    assert set(names(share_embeddings=False)) == untied
    assert set(names(positions="relative_bias")["decoder"]) == {"layer_0", "layer_1", "relative_bias"}


def test_dropout_acts_in_training_only():
    model = tiny(dropout=0.5, num_layers=1)
    params = random_params(model, SOURCE, TARGET, VALID)

    @jax.jit
    def trained(rng):
        return model.apply(params, SOURCE, TARGET, VALID, train=True, rngs={"dropout": rng})

    first, second = trained(jax.random.key(0)), trained(jax.random.key(1))
    assert not np.allclose(first, second, atol=1e-3)
    np.testing.assert_array_equal(first, trained(jax.random.key(0)))
    expected = tiny(num_layers=1, dropout=0.0).apply(params, SOURCE, TARGET, VALID)
    np.testing.assert_allclose(model.apply(params, SOURCE, TARGET, VALID), expected, atol=1e-6)


def test_a_text_longer_than_the_learned_table_is_refused():
    model = tiny(positions="learned", max_length=5)
    with pytest.raises(UserError, match="length 6 exceeds max_length 5"):
        model.init(jax.random.key(0), SOURCE, TARGET, VALID)
