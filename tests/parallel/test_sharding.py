import types

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from research.errors import UserError
from research.parallel.sharding import partition_specs


def mesh(**shape):
    return types.SimpleNamespace(shape={"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1} | shape)


def tree(**arrays):
    """Parameters from paths with underscores for slashes: shapes of float32 arrays."""
    params: dict = {}
    for path, shape in arrays.items():
        *folders, name = path.split("__")
        node = params
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = jax.ShapeDtypeStruct(shape, jnp.float32)
    return params


LAYER = tree(
    layer_0__self_attention__query__kernel=(64, 4, 16),
    layer_0__self_attention__query__bias=(4, 16),
    layer_0__self_attention__out__kernel=(4, 16, 64),
    layer_0__self_attention__out__bias=(64,),
    layer_0__feed_forward__up__kernel=(64, 256),
    layer_0__feed_forward__down__kernel=(256, 64),
    layer_0__feed_forward_norm__scale=(64,),
    embedding__embedding=(99, 64),
)


def specs(params, **shape):
    return {path.rpartition("layer_0/")[2]: spec for path, spec in partition_specs(params, mesh(**shape), {}).items()}


def test_data_parallelism_splits_no_parameter():
    assert {len(set(spec) - {None}) for spec in specs(LAYER, data=8).values()} == {0}


def test_fsdp_splits_the_largest_dimension():
    found = specs(LAYER, fsdp=8)
    assert found["self_attention/query/kernel"] == P("fsdp", None, None)
    assert found["feed_forward/up/kernel"] == P(None, "fsdp")
    assert found["embedding/embedding"] == P(None, "fsdp")  # 8 does not divide 99
    assert found["feed_forward_norm/scale"] == P("fsdp")


def test_tensor_parallelism_splits_heads_and_hidden_layer():
    found = specs(LAYER, fsdp=2, tensor=4)
    assert found["self_attention/query/kernel"] == P("fsdp", "tensor", None)
    assert found["self_attention/query/bias"] == P("tensor", "fsdp")
    assert found["self_attention/out/kernel"] == P("tensor", None, "fsdp")
    assert found["self_attention/out/bias"] == P("fsdp")
    assert found["feed_forward/up/kernel"] == P("fsdp", "tensor")
    assert found["feed_forward/down/kernel"] == P("tensor", "fsdp")


def test_scanned_layers_are_split_as_single_ones():
    params = tree(decoder__layers__self_attention__query__kernel=(128, 64, 4, 16))
    (spec,) = partition_specs(params, mesh(fsdp=2, tensor=4), {}).values()
    assert spec == P(None, "fsdp", "tensor", None)


def test_heads_that_the_tensor_axis_does_not_divide():
    with pytest.raises(UserError, match=r"mesh.tensor 3 does not divide num_heads 4 of .*: use 1, 2 or 4"):
        specs(LAYER, tensor=3)


def test_a_parameter_without_a_rule_is_named():
    with pytest.raises(UserError, match=r"parameter mystery matches no sharding rule: add one for it to mesh\.rules"):
        specs(tree(mystery=(8, 8)), fsdp=8)


def test_a_configs_own_rules_come_first():
    params = LAYER | tree(mystery=(8, 8))
    found = partition_specs(params, mesh(fsdp=2, tensor=2), {"^mystery$": (None, "tensor")})
    assert found["mystery"] == P("fsdp", "tensor")


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ({"nothing": ()}, "mesh.rules 'nothing' matches no parameter: the paths look like"),
        (
            {"kernel": ("width",)},
            "mesh.rules 'kernel' names the axis 'width': use data, fsdp, tensor, sequence or None",
        ),
        ({"(": ()}, r"mesh.rules '\(' is not a regular expression"),
        ({"embedding$": (), "ing$": ()}, "matches the rules 'embedding\\$' and 'ing\\$'"),
    ],
)
def test_rules_that_make_no_sense(rules, sentence):
    with pytest.raises(UserError, match=sentence):
        partition_specs(LAYER, mesh(fsdp=2), rules)


def test_what_stays_whole_on_an_fsdp_mesh_is_named():
    params = LAYER | tree(position_embedding=(333, 33))
    with pytest.raises(UserError, match=r"would stay whole on every device \(position_embedding \(333, 33\)"):
        specs(params, fsdp=8)
    assert specs(params, data=8)["position_embedding"] == P(None, None)
