"""Heads on encoders of text that come from elsewhere: published weights, and runs of the pre-training."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments.train import train
from research.config import load
from research.errors import UserError
from research.parallel.sharding import by_path
from research.runs.experiment import build_experiment, trained
from tests.models.golden import FOLDER as GOLDEN

LETTERS = [*"abcdefghijklmnopqrstuvwxyz", *"0123456789"][:35]


@pytest.fixture
def table(tmp_path):
    (tmp_path / "texts.csv").write_text("text,label\n" + "ab cd,x\nef g,y\n" * 40)
    return f"configs/language/fine_tune.py:file={tmp_path}/texts.csv"


def test_published_weights_below_a_new_head(table, tmp_path):
    published = GOLDEN.parent / "transformers" / "bert"
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]))
    sizes = {"num_layers": 2, "width": 16, "num_heads": 2, "mlp_width": 32, "max_length": 12}
    overrides = {f"model.{name}": value for name, value in sizes.items()}
    overrides |= {"task.length": 12, "task.tokenizer": {"path": str(tmp_path / "vocab.txt")}}
    config = load(f"{table},tiny", overrides)
    config.transfer = {"source": str(published), "new": ["^head/"]}
    experiment = build_experiment(config, tmp_path)
    params = by_path(jax.device_get(experiment.run.create_state().params))
    theirs = load_file(published / "model.safetensors")
    name = "encoder.layer.1.intermediate.dense.weight"
    np.testing.assert_array_equal(params["encoder/layer_1/feed_forward/up/kernel"], theirs[name].T)
    assert params["head/kernel"].shape == (16, 2) and "pooler/kernel" not in params


def test_a_run_of_the_pre_training_below_the_answers(tmp_path):
    spec = "configs/language/bert_pretrain.py:tiny"
    train(spec, tmp_path / "bert", {"training.duration": {"steps": 2}, "model.max_length": 40, "task.length": 40})
    config = load(f"configs/language/stories.py:run={tmp_path}/bert,tiny")
    experiment = build_experiment(config, tmp_path)
    params = by_path(jax.device_get(experiment.run.create_state().params))
    before = by_path(jax.device_get(trained(tmp_path / "bert")[1]["params"]))
    assert {path for path in before if path not in params} == {
        path for path in before if path.startswith(("masked/", "pooler/", "next_sentence/"))
    }
    same = [path for path in params if path in before and (params[path] == before[path]).all()]
    assert set(params) - set(same) == {"head/kernel", "head/bias"}


def test_a_head_on_what_gives_no_states(table, tmp_path):
    config = load(f"{table},tiny")
    config.model = {"name": "rnn", "num_layers": 1, "width": 8}
    with pytest.raises(UserError, match="model RNNSeq2Seq gives no states of a text's tokens"):
        _ = build_experiment(config, tmp_path).run
