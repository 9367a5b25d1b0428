"""Whole commands with vocabularies from files and of other runs."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from research.data.tokenizer import TrainedTokenizer
from research.parallel.sharding import by_path
from research.runs.experiment import open_run
from research.training.checkpoints import Checkpoints

CONFIG = """
from configs.language import shakespeare

def get_config(arg=""):
    config = shakespeare.get_config("tiny")
    config.data.path = PATH
    config.task.tokenizer = TOKENIZER
    config.optimizer.learning_rate = RATE
    if SOURCE:
        config.transfer = {"source": SOURCE, "new": []}
    return config
"""


@pytest.fixture
def train(run, tmp_path: Path):
    """`train("name", text, source)`: a run in tmp_path / name; with a source nothing is learnt, its numbers stay."""

    def launch(name: str, text: str, source: str = "", tokenizer: dict | None = None):
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
        values = {"PATH": str(tmp_path / f"{name}.txt"), "TOKENIZER": tokenizer or {"kind": "character"}}
        values |= {"RATE": 0.0 if source else 1e-2, "SOURCE": source}
        config = tmp_path / f"{name}.py"
        config.write_text(CONFIG + "".join(f"{key} = {value!r}\n" for key, value in values.items()))
        return run("train", f"--config={config}", f"--workdir={tmp_path / name}")

    return launch


def table_of(folder: Path) -> tuple[dict[str, int], np.ndarray, dict[str, np.ndarray]]:
    """A run's ids, its rows by id, and all its other parameters."""
    experiment = open_run(folder)
    with Checkpoints(folder / "checkpoints", experiment.checkpoint, write=False) as checkpoints:
        params = by_path(jax.device_get(experiment.variables(checkpoints)[0]["params"]))
    ids = TrainedTokenizer.load(folder / "tokenizer.json").ids
    return ids, params.pop("embedding/embedding"), params


def test_two_vocabularies_of_equal_size(train, tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert train("first", "bcdefghi bi " * 90).code == 0
    done = train("second", "abcdefgh ah " * 90, str(first))
    assert done.code == 0, done.stderr
    assert "embedding/embedding: 12 of 13 rows are those of the same tokens in" in done.stdout
    (old, there, others), (new, here, same) = table_of(first), table_of(second)
    assert there.shape == here.shape and old != new
    shared = set(old) & set(new)
    assert len(shared) == 12 and any(old[token] != new[token] for token in shared)
    for token in shared:
        np.testing.assert_array_equal(here[new[token]], there[old[token]])
    assert not (here[new["a"]] == there).all(axis=1).any()
    for path, values in others.items():
        np.testing.assert_array_equal(same[path], values)

    refused = train("third", "jklmnopq jq " * 90, str(first))
    assert refused.code == 2 and "Traceback" not in refused.stderr
    assert f"transfer.source {first} has 5 of the 13 tokens of the vocabulary here, fewer than half" in refused.stderr

    # The documented way to keep the ids of a run on another text.
    kept = train("fourth", "abcdefgh ah " * 90, str(first), {"path": str(first / "tokenizer.json")})
    assert kept.code == 0 and "start afresh" not in kept.stdout, kept.stderr
    ids, rows, _ = table_of(tmp_path / "fourth")
    assert ids == old
    np.testing.assert_array_equal(rows, there)


def test_a_vocabulary_of_bert_is_kept_in_the_folder(train, run, tmp_path: Path):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "sat", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n")
    done = train("bert", "The cats sat. The cat sat.\n" * 90, tokenizer={"path": str(tmp_path / "vocab.txt")})
    assert done.code == 0, done.stderr
    (tmp_path / "vocab.txt").unlink()
    folder = tmp_path / "bert"
    assert json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]["[MASK]"] == 4
    said = run("predict", f"--workdir={folder}", "The cat")
    assert said.code == 0 and said.stdout.startswith("the cat"), said.stderr


def test_one_vocabulary_for_each_language(run, tmp_path: Path):
    """The target's vocabulary is the larger one: ids that the source lacks are shown, scored and kept all the same."""
    folder = tmp_path / "run"
    both = ["--config.task.target_tokenizer={'kind': 'word'}", "--config.task.tokenizer={'kind': 'character'}"]
    both += ["--config.task.max_length=128"]
    done = run("train", "--config=configs/translation/phrasebook.py:tiny", f"--workdir={folder}", *both)
    assert done.code == 0, done.stderr
    source, target = (TrainedTokenizer.load(folder / f"{name}.json") for name in ("tokenizer", "target_tokenizer"))
    assert source.vocab_size < target.vocab_size
    experiment = open_run(folder)
    assert experiment.model.vocab_size == target.vocab_size and not experiment.model.share_embeddings
    assert run("predict", f"--workdir={folder}", "hello").code == 0
    (folder / "target_tokenizer.json").write_text((folder / "tokenizer.json").read_text())
    other = run("evaluate", f"--workdir={folder}")
    assert other.code == 2 and "Traceback" not in other.stderr
