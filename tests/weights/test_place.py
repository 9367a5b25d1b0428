"""Arrays on their devices, one after the other: transposed, scanned and on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import UserError
from research.weights.place import placed


def abstract(shape, sharding=None):
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)


def test_values_are_kept_however_they_lie():
    random = np.random.default_rng(0)
    arrays = {
        "a": random.normal(size=(5, 130)).T,
        "b": random.normal(size=(3, 2, 70)).transpose(2, 0, 1),
        "c": np.ones(4),
    }
    arrays = {name: np.float32(array) for name, array in arrays.items()}
    tree = {"params": {name: abstract(array.shape) for name, array in arrays.items()}}
    found = placed(arrays.items(), tree)["params"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_file_that_changes_later_changes_nothing(tmp_path):
    np.arange(16, dtype=np.float32).tofile(tmp_path / "file")
    array = np.memmap(tmp_path / "file", np.float32, "r")
    found = placed([("a", array)], {"params": {"a": abstract((16,))}})["params"]["a"]
    np.zeros(16, np.float32).tofile(tmp_path / "file")
    assert found.tolist() == list(range(16))


def test_layers_are_stacked_in_their_order():
    arrays = [(f"decoder/layer_{number}/x", np.full(3, number, np.float32)) for number in (2, 0, 1)]
    found = placed(arrays, {"params": {"decoder": {"layers": {"x": abstract((3, 3))}}}})
    assert found["params"]["decoder"]["layers"]["x"].tolist() == [[0] * 3, [1] * 3, [2] * 3]


def test_what_is_missing_is_named():
    tree = {"params": {"decoder": {"layers": {"x": abstract((2, 3))}}, "y": abstract((1,))}}
    with pytest.raises(UserError, match=r"2 arrays of the model are missing \(decoder/layers/x, ...\): give the"):
        placed([("decoder/layer_0/x", np.ones(3, np.float32))], tree)


def test_an_array_for_images_of_another_size_is_refused():
    with pytest.raises(
        UserError, match=r"y is \(5, 2\) in the weights and \(17, 2\) in this run's model, whose images"
    ):
        placed([("y", np.ones((5, 2), np.float32))], {"params": {"y": abstract((17, 2))}})
