"""What models that were trained here write for transformers: every key that its defaults would make another model."""

import json

import numpy as np
import pytest
import tokenizers

from experiments.train import train
from research.errors import UserError
from research.models.swin import Swin
from research.runs.experiment import open_run
from research.weights.families import FAMILIES
from tests.runs.test_weights import CONFIG, arrays_of, command

SMALL = {"width": 16, "num_layers": 1, "num_heads": 2, "mlp_width": 24}
LINES = ["the quick brown fox", "jumps over the lazy dog", "to be or not to be", "that is the question"] * 4
BPE = {"kind": "bpe", "vocab_size": 290}


@pytest.fixture
def run_of(tmp_path):
    """`run_of(model, task)`: a run of one step on a few lines, whose names are the fields' "name"."""

    def made(model, task):
        (tmp_path / "lines.txt").write_text("\n".join(LINES) + "\n")
        (tmp_path / "text.txt").write_text("\n\n".join(LINES) + "\n")
        lines = str(tmp_path / "lines.txt")
        data = {"name": "text_file", "path": str(tmp_path / "text.txt")}
        if task["name"] == "translation":
            data = {"name": "parallel_text", "train_source": lines, "train_target": lines}
        if task["name"] == "classification":
            data = {"name": "digits"}
        config = {
            "model": {**SMALL, **model},
            "task": task,
            "data": data,
            "optimizer": {"name": "adamw", "learning_rate": 1e-3},
            "training": {"batch_size": 4, "duration": {"steps": 1}},
        }
        (tmp_path / "config.py").write_text(CONFIG.format(config=config))
        train(str(tmp_path / "config.py"), tmp_path / "run", {})
        return tmp_path / "run"

    return made


def written(folder, name="config.json"):
    return json.loads((folder / name).read_text())


MARIAN = {"name": "seq2seq", "positions": "sinusoidal_halves", "norm_epsilon": 1e-5, "output_bias": True}
TRANSLATION = {"name": "translation", "tokenizer": BPE, "max_length": 24, "extra_length": 8}


def test_a_translation_model_is_a_whole_marian(run_of, tmp_path):
    """Which comes back as it was. Ids 0 to 3 are <pad>, <s>, </s> and <unk>; transformers' defaults are 58100 and 0."""
    run, out = run_of({**MARIAN, "dropout": 0.2, "activation_dropout": 0.3}, TRANSLATION), tmp_path / "out"
    command("export", run, out)
    config = written(out)
    ids = {"pad_token_id": 0, "bos_token_id": 1, "decoder_start_token_id": 1, "eos_token_id": 2}
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "d_model": 16}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 290, "decoder_vocab_size": 290}
    more = {"activation_function": "relu", "scale_embedding": True, "dropout": 0.2, "activation_dropout": 0.3}
    expected = ids | sizes | more | {"attention_dropout": 0.0, "architectures": ["MarianMTModel"]}
    assert {key: config.get(key) for key in expected} == expected
    generation = {"max_length": 33, "num_beams": 1, "suppress_tokens": [1, 0]}
    assert written(out, "generation_config.json") == ids | generation
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    assert names.items() <= written(out, "tokenizer_config.json").items()
    task = open_run(run).task
    (row,) = task.questions([task.example(LINES[0])]).first(1)["source"].tolist()
    assert tokenizers.Tokenizer.from_file(str(out / "tokenizer.json")).encode(LINES[0]).ids == row
    assert row[-1] == 2 and 1 not in row
    command("import", out, tmp_path / "again")
    before, after = arrays_of(run), arrays_of(tmp_path / "again")
    assert before.keys() == after.keys() and all(np.array_equal(before[path], after[path]) for path in before)
    assert open_run(tmp_path / "again").task.vocabulary.digest == task.vocabulary.digest


def test_a_translation_model_of_other_equations_is_refused(run_of, tmp_path):
    run = run_of({"name": "seq2seq"}, TRANSLATION)
    wanted = r"has model\.positions 'sinusoidal_halves', model\.output_bias True, model\.norm_epsilon 1e-05: train with"
    with pytest.raises(UserError, match=wanted):
        command("export", run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_language_model_is_a_whole_gpt2(run_of, tmp_path):
    """Nothing is put around a prompt; transformers' defaults are a dropout of 0.1 and ids of 50256."""
    task = {"name": "language_modeling", "tokenizer": BPE, "length": 12}
    run, out = run_of({"name": "gpt", "max_length": 12, "dropout": 0.0}, task), tmp_path / "out"
    command("export", run, out)
    expected = {"vocab_size": 290, "n_positions": 12, "n_inner": 24, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    expected |= {"attn_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = written(out)
    assert {key: config.get(key) for key in expected} == expected
    assert written(out, "generation_config.json")["max_length"] == 12
    assert written(out, "tokenizer_config.json")["model_input_names"] == ["input_ids", "attention_mask"]
    ids = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json")).encode(LINES[0]).ids
    assert ids == open_run(run).task.vocabulary.encode(LINES[0]) and not {0, 1, 2} & {*ids}


def test_positions_that_count_from_2_need_padding_1(run_of, tmp_path):
    """transformers' RoBERTa counts the tokens that are not `pad_token_id`."""
    task = {"name": "masked_language", "tokenizer": {"kind": "wordpiece", "vocab_size": 60}, "length": 12}
    model = {"name": "bert", "max_length": 14, "first_position": 2, "segments": 1, "head": "masked"}
    run = run_of({**model, "norm_epsilon": 1e-5}, task)
    with pytest.raises(UserError, match=r"pads with the token 1 .*vocabulary with 0: .*model\.first_position 0"):
        command("export", run, tmp_path / "out")


def test_images_of_one_colour_say_so(run_of, tmp_path):
    run, out = run_of({"name": "vit", "patch_size": 4}, {"name": "classification"}), tmp_path / "out"
    command("export", run, out)
    expected = {"num_channels": 1, "image_size": 8, "patch_size": 4, "layer_norm_eps": 1e-6, "num_hidden_layers": 1}
    config = written(out)
    assert {key: config.get(key) for key in expected} == expected and len(config["id2label"]) == 10


def test_stochastic_depth_of_a_swin_travels():
    (family,) = (family for family in FAMILIES if family.name == "swin")
    model = Swin(num_classes=2, width=8, depths=(1, 1), num_heads=(1, 2), stochastic_depth=0.3)
    assert family.fields.theirs(vars(model))["drop_path_rate"] == 0.3
