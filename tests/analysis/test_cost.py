import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.analysis import cost

f32 = jnp.float32


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, f32)


def test_flops_of_products_convolutions_and_loops():
    """By hand: 2 · m · n · k; 2 · outputs · kernel height · width · input channels of a group."""
    product = lambda a, b: jnp.einsum("bmk,bkn->bmn", a, b)  # noqa: E731
    assert cost.flops(product, shape(3, 4, 5), shape(3, 5, 6)) == 2 * 3 * 4 * 6 * 5

    def convolution(x, kernel, groups):
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
        )

    one = cost.flops(lambda x, k: convolution(x, k, 1), shape(2, 8, 8, 4), shape(3, 3, 4, 6))
    assert one == 2 * (2 * 4 * 4 * 6) * (3 * 3 * 4)
    depthwise = cost.flops(lambda x, k: convolution(x, k, 4), shape(2, 8, 8, 4), shape(3, 3, 1, 4))
    assert depthwise == 2 * (2 * 4 * 4 * 4) * 9

    def scanned(x, w):
        return jax.lax.scan(lambda carry, _: (jax.checkpoint(jnp.dot)(carry, w), None), x, length=7)[0]

    assert cost.flops(scanned, shape(4, 4), shape(4, 4)) == 7 * 2 * 4 * 4 * 4
    branches = lambda x: jax.lax.cond(x[0, 0] > 0, lambda: x @ x @ x, lambda: x @ x)  # noqa: E731
    assert cost.flops(branches, shape(4, 4)) == 2 * 2 * 64


def test_a_gradient_costs_as_much_as_its_forward_pass_again_for_each_argument():
    loss = lambda w, x: (x @ w).sum()  # noqa: E731
    assert cost.flops(jax.value_and_grad(loss), shape(5, 6), shape(8, 5)) == 2 * 2 * 8 * 5 * 6
    assert cost.flops(jax.value_and_grad(loss, (0, 1)), shape(5, 6), shape(8, 5)) == 3 * 2 * 8 * 5 * 6


def test_collectives_are_read_from_the_program():
    program = """
      %all-reduce.1 = f32[16,8]{1,0} all-reduce(f32[16,8]{1,0} %x), replica_groups={}
      %ar = (f32[4]{0}, bf16[2,2]{1,0}) all-reduce(%a, %b), replica_groups={}
      %g = s8[100]{0} all-gather-start(s8[50]{0} %y)
      %use = f32[4]{0} add(%all-reduce.1, %c)
    """
    assert cost.collectives(program) == {"all-gather": (1, 100), "all-reduce": (2, 16 * 8 * 4 + 16 + 8)}


@pytest.mark.parametrize(("available", "expected"), [(1000, 88), (123, 0), (10**9, 512), (129, 0), (210, 8)])
def test_the_largest_batch_of_a_line(available, expected):
    """bytes = 110 + 10 · rows up to 16 rows, and 20 more from 17 on: the guess is checked and lowered."""
    asked = []

    def needed(rows):
        asked.append(rows)
        return 110 + 10 * rows + (20 if rows > 16 else 0)

    found = cost.largest_batch(needed, available, rows=8, multiple=8, most=512)
    assert found % 8 == 0 and (found == 0 or needed(found) <= available)
    assert abs(found - expected) <= 8 and len(asked) < 12


def test_groups_fold_layers():
    leaf = jax.device_put(np.zeros((4, 2), np.float32), jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    mesh = jax.make_mesh((1,), ("fsdp",))
    leaf = jax.device_put(leaf, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp")))
    groups = cost.parameter_groups({"layer_0": {"w": leaf}, "layer_11": {"w": leaf}, "head": leaf})
    assert [(g.path, g.count, g.bytes) for g in groups] == [("head", 1, 32), ("layer_*/w", 2, 64)]
