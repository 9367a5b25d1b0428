"""The initial parameters of every model in the table: those that are stored, and those that the formulas ask for.

`python -m tests.models.test_pinned_steps` stores them anew.
"""

import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from research.models.gpt import GPT
from research.models.seq2seq import Seq2Seq
from research.parallel.sharding import by_path
from research.runs.experiment import MODELS as TABLE
from tests.models.tiny import MODELS

STORED = Path(__file__).resolve().parents[1] / "fixtures" / "pinned_steps.json"
CHANGED = (
    "The initial parameters of {name} are no longer those of tests/fixtures/pinned_steps.json ({paths}). If that is "
    "meant, run `JAX_PLATFORMS=cpu .venv/bin/python -m tests.models.test_pinned_steps`, say why in the commit, and run "
    "the experiments anew whose numbers docs/results.md claims for this model. If not, an initialiser, a parameter's "
    "name or the order of random numbers has changed."
)


def initial(name: str) -> dict[str, np.ndarray]:
    """Parameters and statistics of a model with the seed 0, in float64 by their paths."""
    model, inputs = MODELS[name]
    variables = jax.jit(model.init)(jax.random.key(0), *inputs)
    return {path: np.asarray(array, np.float64) for path, array in by_path(variables).items()}


def numbers(name: str) -> dict[str, list[float]]:
    """Mean, standard deviation and last number of every array."""
    arrays = initial(name).items()
    return {path: [float(f"{x:.8g}") for x in (a.mean(), a.std(), a.ravel()[-1])] for path, a in arrays}


def test_every_model_is_pinned():
    assert set(MODELS) == set(TABLE) == set(json.loads(STORED.read_text()))


@pytest.mark.parametrize("name", MODELS)
def test_initial_parameters_are_those_stored(name):
    stored, found = json.loads(STORED.read_text())[name], numbers(name)
    paths = [
        path
        for path in sorted(set(stored) | set(found))
        if path not in stored or path not in found or not np.allclose(stored[path], found[path], rtol=1e-4, atol=1e-6)
    ]
    assert not paths, CHANGED.format(name=name, paths=", ".join(paths[:5]))


def xavier(fan_in: int, fan_out: int) -> float:
    return (2 / (fan_in + fan_out)) ** 0.5


# Of a standard normal number between -2 and 2: sqrt(1 - 4 φ(2) / (2 Φ(2) - 1)).
CUT = (1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(2**0.5)) ** 0.5

# Deviations by the papers' and initialisers' formulas, for models wide enough that the sample's is within 5 %.
WIDE = {
    "seq2seq": (
        Seq2Seq(50, num_layers=1, width=64, num_heads=4, mlp_width=128),
        {
            r"embedding/embedding": 64**-0.5,
            r"encoder/layer_0/self_attention/query/kernel": xavier(64, 64),
            r"decoder/layer_0/cross_attention/out/kernel": xavier(64, 64),
            r"encoder/layer_0/feed_forward/up/kernel": xavier(64, 128),
            r"decoder/layer_0/feed_forward/down/kernel": xavier(128, 64),
        },
    ),
    "gpt": (
        GPT(50, num_layers=2, width=64, num_heads=4, max_length=64),
        {
            "embedding/embedding": 0.02,
            "position_embedding/embedding": 0.02,
            "decoder/layer_1/self_attention/key/kernel": 0.02,
            "decoder/layer_1/self_attention/out/kernel": 0.02 / 2,  # sqrt(2 · num_layers)
            "decoder/layer_0/feed_forward/down/kernel": 0.02 / 2,
        },
    ),
    "vit": (
        MODELS["vit"][0].clone(width=64, mlp_width=128),
        {
            "encoder/layer_1/self_attention/value/kernel": xavier(64, 64),
            "encoder/layer_0/feed_forward/up/kernel": xavier(64, 128),
            "patch_embedding/projection/kernel": (8 * 8 * 3) ** -0.5,  # LeCun et al. 1998: 1 / sqrt(fan_in)
            "position_embedding": 0.02,
            "head/kernel": 0.0,
        },
    ),
    "resnet": (
        MODELS["resnet"][0].clone(width=32),
        {
            "stem/conv/kernel": (2 / (7 * 7 * 32)) ** 0.5,  # He et al. 2015: sqrt(2 / fan_out)
            "stage_0_block_0/spatial/conv/kernel": (2 / (3 * 3 * 32)) ** 0.5,
            "stage_1_block_0/last/conv/kernel": (2 / 256) ** 0.5,
            "stage_1_block_0/last/norm/scale": 0.0,
        },
    ),
    "swin": (
        MODELS["swin"][0].clone(width=32),
        {
            "stage_0_block_0/attention/query/kernel": 0.02 * CUT,
            "stage_1_block_0/feed_forward/down/kernel": 0.02 * CUT,
            "stage_1_merge/reduce/kernel": 0.02 * CUT,
        },
    ),
}


@pytest.mark.parametrize("name", WIDE)
def test_deviations_are_those_of_the_formulas(name):
    model, expected = WIDE[name]
    params = by_path(jax.jit(model.init)(jax.random.key(0), *MODELS[name][1])["params"])
    for path, deviation in expected.items():
        array = np.asarray(params[path], np.float64)
        assert array.std() == pytest.approx(deviation, rel=max(0.03, 4 / (2 * array.size) ** 0.5)), path
        assert abs(array.mean()) <= 5 * deviation / array.size**0.5 or deviation == 0, path


if __name__ == "__main__":
    STORED.write_text(json.dumps({name: numbers(name) for name in MODELS}, indent=1) + "\n", encoding="utf-8")
