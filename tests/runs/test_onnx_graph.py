"""Operations as ONNX Runtime computes them, beside JAX's own answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import UserError
from research.layers.attention import MultiHeadAttention
from research.models.vit import ViT
from research.runs.onnx_graph import Constants, onnx_model

runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

DRAW = np.random.default_rng(0)
TABLE = DRAW.normal(size=(30, 40)).astype(np.float32)
KERNEL = DRAW.normal(size=(3, 3, 2, 6)).astype(np.float32)
IMAGES = DRAW.normal(size=(2, 9, 8, 4)).astype(np.float32)
MATRICES = DRAW.normal(size=(2, 3, 4, 5)).astype(np.float32)
IDS = DRAW.integers(0, 30, (2, 7)).astype(np.int32)


def convolved(x, *, strides=(1, 1), padding="SAME", dilation=(1, 1)):
    names = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, KERNEL, strides, padding, rhs_dilation=dilation, dimension_numbers=names, feature_group_count=2
    )


FUNCTIONS = {
    "softmax": (jax.nn.softmax, MATRICES),
    "gelu": (jax.nn.gelu, MATRICES),
    "exact gelu": (lambda x: jax.nn.gelu(x, approximate=False), MATRICES),
    "hard swish": (jax.nn.hard_swish, MATRICES),
    "silu and relu6": (lambda x: jax.nn.silu(x) + jax.nn.relu6(x), MATRICES),
    "norm": (lambda x: (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-6), MATRICES),
    "powers": (lambda x: x**3 + jnp.abs(x) ** 0.5 + jnp.square(x) + jnp.log1p(jnp.abs(x)) + jnp.sign(x), MATRICES),
    "product": (lambda x: jnp.einsum("abcd,aecd->bea", x, 2 * x), MATRICES),
    "product of batches": (lambda x: jnp.einsum("abcd,abed->abce", x, x), MATRICES),
    "product with a table": (lambda x: jnp.einsum("abcd,xa->xbcd", x, TABLE[:4, :2]), MATRICES),
    "convolution": (convolved, IMAGES),
    "strided": (lambda x: convolved(x, strides=(2, 3), padding=((1, 0), (2, 1))), IMAGES),
    "dilated": (lambda x: convolved(x, dilation=(2, 1)), IMAGES),
    "pooled": (
        lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 2, 1), (1, 2, 1, 1), "SAME"),
        IMAGES,
    ),
    "summed": (lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 2, 1), "SAME"), IMAGES),
    "rows": (lambda ids: jnp.asarray(TABLE)[ids], IDS),
    "taken": (lambda ids: jnp.take(jnp.asarray(TABLE), ids, axis=0), IDS),
    "chosen": (lambda ids: jnp.where((ids > 9) & ~(ids == 12) | (ids != ids[:, :1]), ids, -1).argmax(-1), IDS),
    "parts": (lambda x: jnp.concatenate([x[:, 1:, ::2], x[:, :-1, 1::2]], axis=2)[..., ::-1], IMAGES),
    "split": (lambda x: sum((number + 1) * part for number, part in enumerate(jnp.split(x, 2, axis=2))), IMAGES),
    "stacked": (lambda x: jnp.stack([x, 2 * x, x + 1], axis=2), MATRICES),
    "unstacked": (lambda x: sum((number + 1) * part for number, part in enumerate(jnp.unstack(x, axis=1))), MATRICES),
    "tiled": (lambda x: jnp.tile(x, (1, 2, 1, 3)), MATRICES),
    "padded": (lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 3), (0, 0)), constant_values=2), IMAGES),
    "rolled": (lambda x: jnp.roll(x, (2, 1), (1, 2)).max(axis=(1, 3)) - x.min(axis=(1, 3)), IMAGES),
    "bytes": (lambda x: x.astype(jnp.float32) / 255 - 0.5, (IMAGES * 50 + 99).astype(np.uint8)),
    "positions": (lambda x: x + jnp.sin(jnp.arange(5.0)) * jnp.linspace(0, 1, 4)[:, None], MATRICES),
    "of a platform": (
        lambda x: jax.lax.platform_dependent(x, cpu=lambda x: 2 * x, default=lambda x: 3 * x),
        MATRICES,
    ),
}


def ran(function, batch, folder):
    """What ONNX Runtime gives for named arrays."""
    shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in batch.items()}
    (folder / "model.onnx").write_bytes(onnx_model(function, shapes, Constants(folder / "weights.bin")))
    session = runtime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [output.name.removeprefix("out_") for output in session.get_outputs()]
    return dict(zip(names, session.run(None, batch), strict=True))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations_are_those_of_jax(name, tmp_path):
    function, array = FUNCTIONS[name]
    found = ran(lambda batch: {"answers": function(batch["x"])}, {"x": array}, tmp_path)["answers"]
    wanted = jax.device_get(jax.jit(function)(array))
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_several_inputs_and_outputs_are_named(tmp_path):
    batch = {"b": MATRICES, "a": IDS}
    found = ran(lambda batch: {"z": batch["a"] + 1, "y": -batch["b"], "x": jnp.ones(2)}, batch, tmp_path)
    np.testing.assert_array_equal(found["z"], IDS + 1)
    np.testing.assert_array_equal(found["y"], -MATRICES)
    np.testing.assert_array_equal(found["x"], np.ones(2))


def test_a_model_and_masked_attention(tmp_path):
    model = ViT(num_classes=3, patch_size=4, width=16, num_layers=2, num_heads=2, mlp_width=32)
    image = IMAGES[:, :8, :8, :3]
    variables = drawn(model, image)
    found = ran(lambda batch: {"answers": model.apply(variables, batch["x"])}, {"x": image}, tmp_path)["answers"]
    np.testing.assert_allclose(found, jax.jit(model.apply)(variables, image), atol=1e-5)
    layer, states = MultiHeadAttention(2), IMAGES[:, :, 0]
    mask = (DRAW.random((2, 1, 9, 9)) < 0.5) | np.eye(9, dtype=bool)
    variables = drawn(layer, states)

    def attend(batch):
        return {"answers": layer.apply(variables, batch["x"], mask=batch["mask"])}

    found = ran(attend, {"x": states, "mask": mask}, tmp_path)["answers"]
    np.testing.assert_allclose(found, jax.jit(attend)({"x": states, "mask": mask})["answers"], atol=1e-5)


def drawn(module, *inputs):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return jax.tree.map(lambda leaf: jnp.asarray(DRAW.normal(size=leaf.shape, scale=0.3), jnp.float32), shapes)


def test_graphs_share_large_constants(tmp_path):
    constants = Constants(tmp_path / "weights.bin")
    for rows in (1, 2):
        shapes = {"x": jax.ShapeDtypeStruct((rows, 30), np.float32)}
        assert len(onnx_model(lambda batch: {"answers": batch["x"] @ TABLE}, shapes, constants)) < 1000
    assert (tmp_path / "weights.bin").stat().st_size == TABLE.nbytes


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda x: jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: 2 * y, x), "operation while"),
        (lambda x: jax.lax.top_k(x, 2)[0], "operation top_k"),
        (lambda x: x[jnp.arange(2), jnp.abs(x[:, 0, 0, 0]).astype(int)], "picks single numbers"),
        (lambda x: jax.lax.pad(x, 0.0, [(0, 0, 1)] * 4), "pads around an array alone"),
    ],
)
def test_what_the_format_lacks_is_one_sentence(function, sentence, tmp_path):
    with pytest.raises(UserError, match=f"{sentence}.*: use --format=jax"):
        ran(lambda batch: {"answers": function(batch["x"])}, {"x": MATRICES}, tmp_path)
