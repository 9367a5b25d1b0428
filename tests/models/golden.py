"""Reading the answers of the reference implementations in tests/fixtures/golden."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open

from research.weights.families import tables_of
from research.weights.match import best, check, match, read, shapes_of, theirs

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "golden"


def variables_of(model: Any, inputs: tuple, weights: dict[str, np.ndarray]) -> Any:
    """The model's variables from published weights. Every name of both is used; what is exported again is the same."""
    shapes = shapes_of(model, inputs)
    table = best(tables_of(model), shapes, weights)
    found = match(table, shapes, weights)
    check(found, "the golden file")
    ours = dict(read(found, weights))
    again = theirs(table, ours, prefixed=any(name.startswith(table.prefix) for name in weights if table.prefix))
    assert {name for name in weights if name not in found.dropped} == set(again)
    for name, array in again.items():
        exact = not name.endswith("running_var")  # our moving average of squares has fewer digits of a variance
        (np.testing.assert_array_equal if exact else np.testing.assert_allclose)(array, np.float32(weights[name]))
    abstract = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    paths = jax.tree_util.tree_map_with_path(lambda path, _: "/".join(key.key for key in path[1:]), abstract)
    return jax.tree.map(ours.get, paths)


def check_answers(name: str, model: Any, **options: Any) -> Any:
    """The model answers what timm's does, within 1e-4. Returns its variables, the images and the answers."""
    with safe_open(FOLDER / f"{name}.safetensors", "numpy") as file:
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
        size = int(file.metadata()["size"])
    tile, expected = arrays.pop("input").astype(np.float32), arrays.pop("output")
    repeats = -(-size // tile.shape[1])
    images = jnp.asarray(np.tile(tile, (1, repeats, repeats, 1))[:, :size, :size])
    variables = variables_of(model, (images,), {key.removeprefix("weights/"): array for key, array in arrays.items()})
    np.testing.assert_allclose(jax.jit(model.apply)(variables, images, **options), expected, atol=1e-4)
    return variables, images, expected
