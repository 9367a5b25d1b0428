import json
import math
import os
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from research.errors import UserError
from research.models.detr import DETR
from research.models.resnet import ResNet
from research.training.transfer import Transfer, parts_taken, transferred, with_given
from research.weights.families import taken
from research.weights.files import read_arrays

GOLDEN = Path(__file__).resolve().parents[1] / "fixtures" / "golden"
PARAMS = {"body": {"kernel": jnp.zeros((2, 3))}, "head": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}}
GIVEN = {"body/kernel": np.full((2, 3), 7.0, np.float32), "head/kernel": np.zeros((3, 10)), "other": np.zeros(1)}


def write_weights(path, arrays):
    """A .safetensors file by hand: the length of the header in 8 bytes, the header as JSON, the arrays' bytes."""
    header, data = {}, b""
    for name, (dtype, shape, content) in arrays.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    path.write_bytes(header_of(json.dumps(header).encode(), data))


def test_all_but_the_new_parameters_are_taken_over():
    given = transferred(Transfer("there", drop=("^other$",)), GIVEN, [jax.eval_shape(lambda: PARAMS)])
    assert set(given) == {"body/kernel"}
    params = with_given(PARAMS, given)
    assert params["body"]["kernel"].tolist() == [[7.0] * 3] * 2
    assert params["head"]["kernel"].tolist() == [[1.0] * 4] * 3


@pytest.mark.parametrize(
    ("new", "sentence"),
    [
        (("^tail/",), r"transfer\.new '\^tail/' matches no parameter: the paths look like"),
        (("bias",), r"head/kernel is \(3, 10\) in there and \(3, 4\) here: use the model it was trained with, or add"),
        (("kernel",), "head/bias is absent in there"),
    ],
)
def test_what_does_not_fit_is_named(new, sentence):
    with pytest.raises(UserError, match=sentence):
        transferred(Transfer("there", new, drop=("^other$",)), GIVEN, [PARAMS])


def test_weight_files(tmp_path):
    save_file(GIVEN, tmp_path / "weights.safetensors")
    read = read_arrays(tmp_path / "weights.safetensors")
    assert set(read) == set(GIVEN) and (read["body/kernel"] == 7).all()
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "weights.safetensors").read_bytes()[:50])
    for name in ("torn.safetensors", "missing.safetensors"):
        with pytest.raises(UserError, match=f"{name} cannot be read"):
            read_arrays(tmp_path / name)


def test_what_the_model_lacks_is_counted_and_named():
    """A file of four blocks and a model of two."""
    blocks = {f"layer_{index}/kernel": np.ones(2, np.float32) for index in range(6)}
    model = {f"layer_{index}": {"kernel": jnp.zeros(2)} for index in range(2)} | {"head": {"kernel": jnp.zeros(2)}}
    with pytest.raises(
        UserError, match=r"there has 4 parameters that the model lacks \('layer_2/kernel', .*, \.\.\.\)"
    ):
        transferred(Transfer("there"), blocks, [model])
    taken = transferred(Transfer("there", drop=("layer_[2-5]",)), blocks, [model])
    assert sorted(taken) == ["layer_0/kernel", "layer_1/kernel"]
    with pytest.raises(UserError, match=r"transfer\.drop 'layer_9' matches no parameter"):
        transferred(Transfer("there", drop=("layer_[2-5]", "layer_9")), blocks, [model])
    with pytest.raises(UserError, match=r"layer_1/kernel is absent in there"):
        transferred(Transfer("there", drop=("layer_[1-5]",)), blocks, [model])
    with pytest.raises(UserError, match=r"transfer\.drop '\[' is not a regular expression"):
        Transfer("there", drop=("[",))


def vocabulary(tokens: str) -> dict[str, dict[str, int]]:
    ids = {token: number for number, token in enumerate(tokens)}
    return {"source": ids, "target": ids}


def token_tables(size: int) -> dict:
    """Of a model of that many tokens: [size, 2] rows, a projection [2, size] with its bias, and what has none."""
    table = np.arange(2.0 * size, dtype=np.float32).reshape(size, 2)
    return {
        "embedding": {"embedding": 1 + table},
        "output": {"kernel": 101 + table.T, "bias": np.arange(1.0, size + 1)},
        "layer_0": {"up": {"bias": np.arange(5.0)}},
        "positions": {"embedding": np.arange(10.0).reshape(5, 2)},
    }


@pytest.mark.parametrize("tokens", ["edcba", "bcdef", "bcx", "abcdexyz", "abcde"])
def test_rows_follow_their_tokens(tokens):
    """One by one, with vocabularies of the same size, smaller and larger; the source has the tokens a to e."""
    params = jax.tree.map(lambda leaf: -jnp.ones(leaf.shape), token_tables(len(tokens)))
    flat = {"/".join(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(token_tables(5))}
    given = transferred(Transfer("there", ()), flat, [params], vocabulary("abcde"), vocabulary(tokens))
    taken = jax.jit(with_given)(params, given)
    for number, token in enumerate(tokens):
        old = "abcde".find(token)
        rows = taken["embedding"]["embedding"][number], taken["output"]["kernel"][:, number]
        expected = (1 + 2 * old, 2 + 2 * old), (101 + 2 * old, 102 + 2 * old)
        for row, known in zip(rows, expected, strict=True):
            assert row.tolist() == (list(known) if old >= 0 else [-1, -1])
        assert taken["output"]["bias"][number] == (old + 1 if old >= 0 else -1)
    assert taken["layer_0"]["up"]["bias"].tolist() == [0, 1, 2, 3, 4]
    assert taken["positions"]["embedding"].tolist() == token_tables(5)["positions"]["embedding"].tolist()
    shared = len(set(tokens) & set("abcde"))
    lines = [] if tokens == "abcde" else ["embedding/embedding", "output/bias", "output/kernel"]
    assert sorted(parts_taken("there", given)) == [
        f"{path}: {shared} of {len(tokens)} rows are those of the same tokens in there, the others start afresh"
        for path in lines
    ]


def test_vocabularies_with_little_in_common_are_refused():
    tables = {"embedding": {"embedding": np.ones((5, 2), np.float32)}}
    flat = {"embedding/embedding": tables["embedding"]["embedding"]}
    with pytest.raises(
        UserError, match=r"there has 2 of the 5 tokens of the vocabulary here, fewer than half: take its"
    ):
        transferred(Transfer("there", ()), flat, [tables], vocabulary("abcde"), vocabulary("abxyz"))
    assert transferred(Transfer("there", ("^emb",)), flat, [tables], vocabulary("abcde"), vocabulary("abxyz")) == {}
    # A weight file has no vocabulary, an image model neither; a table of another width is still named.
    for there, here in (({}, vocabulary("abxyz")), (vocabulary("abcde"), {})):
        assert transferred(Transfer("there", ()), flat, [tables], there, here)["embedding/embedding"].shape == (5, 2)
    wide = {"embedding": {"embedding": np.ones((5, 3), np.float32)}}
    with pytest.raises(UserError, match=r"embedding/embedding is \(5, 2\) in there and \(5, 3\) here"):
        transferred(Transfer("there", ()), flat, [wide], vocabulary("abcde"), vocabulary("bcdea"))


def test_each_side_has_its_vocabulary():
    """Tables of both sides have as many rows as the larger vocabulary has tokens; those beyond start afresh."""
    names = ("source_embedding", "target_embedding", "output_embedding")
    flat = {f"{name}/embedding": np.arange(5.0)[:, None] for name in names}
    params = {name: {"embedding": -jnp.ones((6, 1))} for name in names}
    there = {"source": vocabulary("abcde")["source"], "target": vocabulary("xyz")["source"]}
    here = {"source": vocabulary("abcde")["source"], "target": vocabulary("zyxwvu")["source"]}
    taken = with_given(params, transferred(Transfer("there", ()), flat, [params], there, here))
    assert taken["source_embedding"]["embedding"][:, 0].tolist() == [0, 1, 2, 3, 4, -1]
    for name in names[1:]:
        assert taken[name]["embedding"][:, 0].tolist() == [2, 1, 0, -1, -1, -1]


WEIGHTS = {"float16": [1.5, -2.0], "float32": [0.1, 3e38], "float64": [1.0, 3e38]}


@pytest.mark.parametrize("name", [*WEIGHTS, "bfloat16"])
def test_floating_point_weights_are_taken_by_value(name, tmp_path):
    """bfloat16 is the upper half of float32: 1.5 is 0x3fc0 and -2 is 0xc000."""
    if name == "bfloat16":
        write_weights(tmp_path / "file", {"kernel": ("BF16", [2], bytes.fromhex("c03f00c0"))})
        values = [1.5, -2.0]
    else:
        values = WEIGHTS[name]
        bits = struct.pack({"float16": "<2e", "float32": "<2f", "float64": "<2d"}[name], *values)
        write_weights(tmp_path / "file", {"kernel": (f"F{name[5:]}", [2], bits)})
    taken = transferred(Transfer("there", ()), read_arrays(tmp_path / "file"), [{"kernel": jnp.zeros(2)}])
    assert taken["kernel"].dtype == np.float32
    np.testing.assert_array_equal(taken["kernel"], np.array(values, np.float32))


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (("I8", [2], bytes(2)), "'kernel' as int8: use weights of float32"),
        (("BOOL", [2], bytes(2)), "'kernel' as bool"),
        (("I64", [2], bytes(16)), "'kernel' as int64"),
        (("F32", [2], struct.pack("<2f", 1, math.nan)), "NaN or infinity in 'kernel'"),
        (("F16", [2], struct.pack("<2e", 1, math.inf)), "NaN or infinity in 'kernel'"),
        (("F64", [2], struct.pack("<2d", 1, 1e300)), "numbers beyond float32 in 'kernel'"),
    ],
)
def test_numbers_that_are_no_weights(array, sentence, tmp_path):
    """Except where the parameter starts afresh."""
    write_weights(tmp_path / "file", {"kernel": array})
    given = read_arrays(tmp_path / "file")
    with pytest.raises(UserError, match=f"the weights hold {sentence}"):
        transferred(Transfer("there", ()), given, [{"kernel": jnp.zeros(2)}])
    assert transferred(Transfer("there", ("kernel",)), given, [{"kernel": jnp.zeros(2)}]) == {}


RESNET = ResNet(3, depths=(1, 1), bottleneck=False, width=4)
IMAGES = (jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32),)


def test_counts_of_batches_are_left_out_and_others_keep_their_names():
    """So that what the model lacks is named as the file has it."""
    norm = {"bn1.weight": np.ones(4), "bn1.num_batches_tracked": np.array(7), "layer9.0.conv7.weight": np.ones((2, 99))}
    assert set(taken(RESNET, IMAGES, norm | {"fc.weight": np.ones((3, 999))})) == {
        "stem/norm/scale",
        "layer9.0.conv7.weight",
        "head/kernel",
    }
    with pytest.raises(UserError, match=r"no names that ResNet reads \('other', ...\): convert it"):
        taken(RESNET, IMAGES, {"other": np.ones(9999)})
    with pytest.raises(UserError, match=r"hold 'conv1.weight' of shape \(9999,\), which is not of such a model"):
        taken(RESNET, IMAGES, {"conv1.weight": np.ones(9999)})
    with pytest.raises(UserError, match=r"the model has [0-9,]+ parameters and the weights 4: give the config.json"):
        taken(RESNET, IMAGES, {"bn1.weight": np.ones(4)})


def header_of(header: bytes, data: bytes = b"", size: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header + data


ONE = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
WRONG = {
    "empty": b"",
    "text": b"once upon a time there was a text\n" * 9,
    "header longer than the file": header_of(ONE, bytes(4), size=2**63),
    "header of another size": header_of(ONE, bytes(4), size=len(ONE) - 5),
    "data cut short": header_of(ONE, bytes(3)),
    "data left over": header_of(ONE, bytes(9)),
    "not JSON": header_of(b"\xff\xfe{}"),
    "a list": header_of(b"[]"),
    "null": header_of(b"null"),
    "deep": header_of(b"[" * 100_000),
    "unknown type": header_of(ONE.replace(b"F32", b"X32"), bytes(4)),
    "a type that NumPy lacks": header_of(ONE.replace(b"F32", b"F8_E4M3").replace(b"[1]", b"[4]"), bytes(4)),
    "a size beyond all memory": header_of(ONE.replace(b"[1]", b"[4611686018427387904, 8]"), bytes(4)),
    "a negative size": header_of(ONE.replace(b"[1]", b"[-1]"), bytes(4)),
    "a pickle": bytes.fromhex("80049503000000000000004b012e"),
    "a zip": b"PK\x03\x04" + bytes(60),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_weight_files_get_one_sentence(name, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(WRONG[name])
    with pytest.raises(UserError, match=r"weights\.safetensors cannot be read \(.*\): give a run or a") as error:
        read_arrays(path)
    assert "\n" not in str(error.value)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="neither a file nor a folder"):
        read_arrays(tmp_path / "weights.safetensors")


def test_one_part_of_a_model_is_started_and_its_patterns_see_the_paths_within():
    model = {"image": PARAMS, "text": {"body": {"kernel": jnp.ones((2, 3))}}, "scale": jnp.ones(())}
    transfer = Transfer("there", drop=("^other$",), into="image")
    given = transferred(transfer, GIVEN, [jax.eval_shape(lambda: model)])
    assert set(given) == {"image/body/kernel"}
    params = with_given(model, given)
    assert params["image"]["body"]["kernel"].tolist() == [[7.0] * 3] * 2
    assert params["text"]["body"]["kernel"].tolist() == [[1.0] * 3] * 2
    with pytest.raises(UserError, match=r"transfer\.into 'sound' is not a part of the model: use one of image, text"):
        transferred(Transfer("there", into="sound"), GIVEN, [model])
    with pytest.raises(UserError, match=r"transfer\.whole takes a run as it is"):
        Transfer("there", whole=True, into="image")


def test_a_published_backbone_becomes_a_part_of_a_model():
    """Into a DETR whose normalisation is frozen: timm's arrays are found at their places, all others are new."""
    golden = read_arrays(GOLDEN / "resnet_bottleneck.safetensors")
    arrays = {name.removeprefix("weights/"): array for name, array in golden.items() if name.startswith("weights/")}
    backbone = ResNet(0, depths=(1, 1, 2, 1), bottleneck=True, width=4, frozen_norm=True)
    model = DETR(3, backbone, num_queries=2, width=8, num_heads=2, encoder_layers=1, decoder_layers=1, mlp_width=8)
    images = jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    trees = [variables["params"], variables["batch_stats"]]
    given = taken(backbone, (images,), arrays)
    found = transferred(Transfer("there", new=(), drop=(r"^fc\.",), into="backbone"), given, trees)
    assert len(found) == len(jax.tree.leaves([tree["backbone"] for tree in trees]))
    np.testing.assert_array_equal(found["backbone/stem/norm/scale"], arrays["bn1.weight"])
    np.testing.assert_array_equal(found["backbone/stem/norm/mean"], arrays["bn1.running_mean"])
