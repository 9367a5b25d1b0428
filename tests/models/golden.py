"""Reading the answers of the reference implementations in tests/fixtures/golden."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open

from research.pretrained.convert import Renamed, convert

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "golden"


def check(name: str, model: Any, rename: Callable[[str, np.ndarray], Renamed], **options: Any) -> Any:
    """The model answers what the reference does, within 1e-4; every weight of both is used. Returns its variables."""
    with safe_open(FOLDER / f"{name}.safetensors", "numpy") as file:
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
        size = int(file.metadata()["size"])
    tile, expected = arrays.pop("input").astype(np.float32), arrays.pop("output")
    repeats = -(-size // tile.shape[1])
    images = jnp.asarray(np.tile(tile, (1, repeats, repeats, 1))[:, :size, :size])
    converted = convert({key.removeprefix("weights/"): array for key, array in arrays.items()}, rename)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    paths = jax.tree_util.tree_map_with_path(lambda path, _: "/".join(key.key for key in path[1:]), shapes)
    assert sorted(jax.tree.leaves(paths)) == sorted(converted)
    variables = jax.tree.map(lambda path, _: converted[path], paths, shapes)
    jax.tree.map(lambda array, shape: np.testing.assert_equal(array.shape, shape.shape), variables, shapes)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, images, **options), expected, atol=1e-4)
    return variables, images, expected
