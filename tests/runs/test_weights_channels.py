"""Models of grey images, exported: their configs say so, for each library in its own words."""

import json

import pytest
from safetensors.numpy import load_file

from experiments.train import train
from research.errors import UserError
from tests.image_masks import write_masks
from tests.runs.test_weights import command

DIGITS = {"name": "digits"}, {"name": "classification"}
VIT = {"name": "vit", "patch_size": 4, "width": 8, "num_layers": 1, "num_heads": 2, "mlp_width": 16}
SWIN = {"name": "swin", "width": 4, "depths": [1], "num_heads": [1], "window": 2, "patch_size": 2, "norm_levels": True}
UPERNET = {"name": "upernet", "width": 4, "backbone": SWIN | {"num_classes": 0}}
CONFIG = """
from ml_collections import ConfigDict

def get_config(arg=""):
    return ConfigDict({config!r})
"""


def exported(tmp_path, data, task, model, library):
    """The folder and config of a model that was trained for a step on images of one channel."""
    config = {
        "data": data,
        "task": task | {"mean": 0.25, "deviation": 0.5},
        "model": model,
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "training": {"batch_size": 2, "duration": {"steps": 1}},
    }
    (tmp_path / "config.py").write_text(CONFIG.format(config=config))
    train(str(tmp_path / "config.py"), tmp_path / "run", {}, None)
    command("export", tmp_path / "run", tmp_path / "out", "--library", library)
    return tmp_path / "out", json.loads((tmp_path / "out" / "config.json").read_text())


def test_transformers_says_it_in_the_config(tmp_path):
    folder, config = exported(tmp_path, *DIGITS, VIT, "transformers")
    assert config["num_channels"] == 1 and config["image_size"] == 8
    arrays = load_file(folder / "model.safetensors")
    assert arrays["vit.embeddings.patch_embeddings.projection.weight"].shape == (8, 1, 4, 4)
    with pytest.raises(UserError, match="num_channels 1: only models with 3 are known here"):
        command("import", folder, tmp_path / "again")


def test_timm_says_it_in_arguments_of_the_model(tmp_path):
    model = {"name": "mobilenet", "multiplier": 0.5, "head_width": 1280}
    folder, config = exported(tmp_path, *DIGITS, model, "timm")
    assert config["model_args"] == {"in_chans": 1} and config["architecture"] == "mobilenetv2_050"
    assert config["pretrained_cfg"]["mean"] == [0.25] and config["pretrained_cfg"]["std"] == [0.5]
    assert load_file(folder / "model.safetensors")["conv_stem.weight"].shape == (16, 1, 3, 3)


def test_a_backbone_and_the_preprocessing_say_it_too(tmp_path):
    masks = {"name": "image_masks", "path": write_masks(tmp_path / "masks"), "classes": ["a", "b"]}
    task = {"name": "segmentation", "size": 16}
    folder, config = exported(
        tmp_path, masks | {"masks": "labels", "values": [0, 255], "channels": 1}, task, UPERNET, "transformers"
    )
    assert config["backbone_config"]["num_channels"] == 1 and "num_channels" not in config
    assert json.loads((folder / "preprocessor_config.json").read_text())["image_mean"] == [0.25]
