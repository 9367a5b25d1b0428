"""What attention asks of an accelerator: here it is lowered for one, and what it asks is computed by XLA."""

import functools

import jax
import jax._src.cudnn.fused_attention_stablehlo as cudnn  # noqa: TID251 - asks a library that is not here
import jax.numpy as jnp
import numpy as np
import pytest

from research.analysis.cost import flops
from research.layers.dot_product import dot_product_attention
from research.layers.masks import causal_mask
from tests.layers.test_attention import BATCH, HEADS, LENGTH, MASKS, assert_same, random_inputs, reference_attention


@pytest.mark.parametrize("backend", ["cpu", "tpu"])
@pytest.mark.parametrize("padded", [False, True])
def test_causal_attention_needs_no_array(monkeypatch, backend, padded):
    both = np.asarray(MASKS["causal-padding" if padded else "causal"])
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    mask = jnp.asarray(both[:, :, -1:]) if padded else None
    assert_same(
        lambda arrays: dot_product_attention(**arrays, mask=mask, causal=True),
        lambda arrays: reference_attention(**arrays, mask=both)[0],
        random_inputs(2),
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_the_accelerators_path_equals_the_formula(monkeypatch, kv_heads, bias):
    inputs = {name: jnp.asarray(array, jnp.float32) for name, array in random_inputs(kv_heads).items()}
    if bias:
        inputs["bias"] = jnp.asarray(np.random.default_rng(4).normal(size=(1, HEADS, LENGTH, LENGTH)), jnp.float32)
    expected = dot_product_attention(**inputs, mask=MASKS["nothing-allowed"])
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    np.testing.assert_allclose(dot_product_attention(**inputs, mask=MASKS["nothing-allowed"]), expected, atol=1e-5)


def given(mask, length):
    """A kind of mask as the layer passes it."""
    if mask == "padding":
        return {"mask": jnp.ones((1, 1, 1, length), bool).at[..., -1].set(False)}
    return {"causal": True} if mask == "causal" else {"mask": causal_mask(length)} if mask == "array" else {}


@pytest.mark.parametrize(
    ("dtype", "queries", "size", "implementation"),
    [
        (jnp.bfloat16, 6, 64, "cudnn"),
        (jnp.float16, 6, 64, "cudnn"),
        (jnp.bfloat16, 1, 64, None),  # a step of decoding
        (jnp.bfloat16, 6, 12, None),
        (jnp.bfloat16, 6, 256, None),
        (jnp.float32, 6, 64, None),
    ],
)
def test_cudnn_is_asked_only_for_what_it_takes(monkeypatch, dtype, queries, size, implementation):
    asked = []

    def spy(query, *args, implementation=None, **kwargs):
        asked.append(implementation)
        return query

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", spy)
    x = jnp.zeros((1, 6, 2, size), dtype)
    dot_product_attention(x[:, :queries], x, x)
    assert asked == [implementation]


@pytest.mark.parametrize("mask", ["none", "causal", "array", "padding"])
@pytest.mark.parametrize("length", [6, 7])
def test_what_cudnn_is_asked_for_is_the_formula(monkeypatch, mask, length):
    """Of odd lengths as well, which it is given filled up."""
    random = np.random.default_rng(5)
    arrays = [jnp.asarray(random.normal(size=(2, length, 2, 8)), jnp.bfloat16) for _ in range(3)]
    expected = dot_product_attention(*arrays, **given(mask, length))
    computed = jax.nn.dot_product_attention

    def spy(query, key, value, *, mask, implementation, **kwargs):
        assert implementation == "cudnn" and query.shape[1] % 2 == key.shape[1] % 2 == 0
        assert mask is None or mask.shape[2:] == (query.shape[1], key.shape[1])
        return computed(query, key, value, mask=mask, **kwargs)

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", spy)
    found = dot_product_attention(*arrays, **given(mask, length))
    np.testing.assert_allclose(*(np.asarray(array, np.float32) for array in (found, expected)), atol=0.02)


def pretend_cudnn(monkeypatch):
    """A GPU whose card and library answer as an H100's do."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91_200)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda capability: False)


def gradients(mask, length):
    """Attention with its gradients, and its arguments' shapes."""

    def attend(query, key, value, upstream):
        attended, pull = jax.vjp(functools.partial(dot_product_attention, **given(mask, length)), query, key, value)
        return attended, pull(upstream)

    return attend, [jax.ShapeDtypeStruct((BATCH, length, 4, 64), jnp.bfloat16)] * 4


@pytest.mark.parametrize("mask", ["none", "causal", "array", "padding"])
@pytest.mark.parametrize("length", [96, 197])
def test_cudnn_takes_the_program_forward_and_backward(monkeypatch, mask, length):
    """Lowered for CUDA on this machine, where only the library's version and the card cannot be asked."""
    attend, arrays = gradients(mask, length)
    expected = flops(gradients(mask, length + length % 2)[0], *gradients(mask, length + length % 2)[1])
    pretend_cudnn(monkeypatch)
    assert flops(attend, *arrays) == expected  # as the formula counts them
    attend, arrays = gradients(mask, length)
    text = jax.jit(attend).trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("@__cudnn$fmha") == 2  # forward and backward
    square = f"{length + length % 2}x{length + length % 2}x"
    assert (square in text) == (mask in ("array", "padding"))
