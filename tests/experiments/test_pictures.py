"""Pictures of image classifiers, through the command, and of queries."""

import types

import numpy as np
import pytest
from PIL import Image

from research.reports import pictures, stored
from research.reports.pictures import over_image
from research.tasks import captioning, detection
from research.tasks.task import View

CONFIG = """
from configs.vision import digits
from ml_collections import ConfigDict

def get_config(arg):
    config = digits.get_config("tiny")
    config.model = ConfigDict({model})
    return config
"""
RESNET = {"name": "resnet", "depths": (1, 1), "bottleneck": False, "width": 4, "small_images": True}
SWIN = {"name": "swin", "depths": (1, 1), "num_heads": (1, 2), "width": 8, "patch_size": 2, "window": 2}
VIT = {"name": "vit", "patch_size": 2, "width": 8, "num_layers": 1, "num_heads": 2, "mlp_width": 16, "registers": 1}


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (RESNET, ["relevance.png"]),
        (SWIN, ["relevance.png"]),
        (VIT, ["attention/encoder_layer_0_self_attention.png", "attention/rollout.png"]),
    ],
)
def test_a_given_image_is_drawn(model, names, run, tmp_path):
    (tmp_path / "config.py").write_text(CONFIG.replace("{model}", repr(model)))
    folder, workdir = tmp_path / "run", f"--workdir={tmp_path / 'run'}"
    done = run("train", f"--config={tmp_path / 'config.py'}", workdir)
    assert done.code == 0, done.stderr
    before = [(folder / name).read_bytes() for name in names]  # of the first image of the validation split
    Image.fromarray(np.tile(np.arange(8, dtype=np.uint8) * 30, (8, 1))).save(tmp_path / "ramp.png")
    done = run("pictures", workdir, str(tmp_path / "ramp.png"))
    assert done.code == 0, done.stderr
    for name, old in zip(names, before, strict=True):
        assert (folder / name).read_bytes() != old
        assert Image.open(folder / name).size[0] > 300
    assert (folder / "relevance.png").exists() == (model is not VIT)
    assert (folder / "attention").exists() == (model is VIT)


def test_attention_lies_over_the_patches_between_special_tokens_and_registers():
    """One class token, 2 x 3 patches, two registers; then the same without a class token."""
    weights = np.zeros((9, 9))
    weights[0] = [0.3, 0.0, 0.1, 0.0, 0.2, 0.0, 0.1, 0.2, 0.1]
    np.testing.assert_array_equal(over_image(weights, (2, 3), 1), [[0.0, 0.1, 0.0], [0.2, 0.0, 0.1]])
    rows = np.arange(64.0).reshape(8, 8)
    expected = [[sum(rows[query][key] for query in range(6)) / 6 for key in keys] for keys in ((0, 1, 2), (3, 4, 5))]
    np.testing.assert_allclose(over_image(rows, (2, 3), 0), expected)
    np.testing.assert_array_equal(over_image(rows[:1, :6], (2, 3), 0), [[0, 1, 2], [3, 4, 5]])  # attention pooling


def test_each_query_that_found_something_is_drawn_over_the_image(monkeypatch, tmp_path):
    """The mean over heads, in the image's 2 x 3 places; what queries attend to among themselves is not drawn."""
    drawn = {}
    monkeypatch.setattr(
        pictures, "image_heat_maps", lambda image, maps, title, path: drawn.update({path.stem: dict(maps)})
    )
    cross = np.arange(36.0).reshape(1, 2, 3, 6)
    weights = {
        "encoder/layer_0/self_attention": np.full((1, 2, 6, 6), 1 / 6),
        "decoder/layer_0/self_attention": np.full((1, 2, 3, 3), 1 / 3),
        "decoder/layer_0/cross_attention": cross,
    }
    view = View("cats", (), {"queries": ["", "cat 0.90", ""]}, detection.sides)
    model, image = types.SimpleNamespace(patch_size=4), np.zeros((8, 11, 3), np.uint8)
    pictures._draw_patches(model, weights, image, view, tmp_path / "attention")
    assert set(drawn) == {"encoder_layer_0_self_attention", "decoder_layer_0_cross_attention", "rollout"}
    assert set(drawn["decoder_layer_0_cross_attention"]) == {"cat 0.90"}
    heat = drawn["decoder_layer_0_cross_attention"]["cat 0.90"]
    np.testing.assert_array_equal(heat, cross[0, :, 1].mean(axis=0).reshape(2, 3))
    np.testing.assert_allclose(drawn["rollout"]["all layers"].sum(), 1, rtol=1e-6)


def test_words_are_drawn_over_the_image_in_their_order_and_repeated_ones_each(monkeypatch, tmp_path):
    """A captioner over 2 x 3 places, whose own tower has a class token."""
    drawn = []
    monkeypatch.setattr(pictures, "image_heat_maps", lambda image, maps, title, path: drawn.append((path.stem, maps)))
    texts = []
    monkeypatch.setattr(pictures, "attention_heat_maps", lambda weights, *rest: texts.append((weights.shape, *rest)))
    random = np.random.default_rng(0)
    weights = {
        "image/encoder/layer_0/self_attention": random.dirichlet(np.ones(7), (1, 2, 7)),
        "decoder/layer_0/self_attention": random.dirichlet(np.ones(6), (1, 2, 6)),  # as many as there are places
        "decoder/layer_0/cross_attention": random.dirichlet(np.ones(6), (1, 2, 6)),
    }
    written = ["a", "star", "a", "[EOS]"]  # behind them is padding
    view = View("a star a", (), {"written": written, "read": ["[BOS]", *written[:-1]]}, captioning.sides)
    model, image = types.SimpleNamespace(patch_size=4, special_tokens=1), np.zeros((8, 12, 3), np.uint8)
    pictures._draw_patches(model, weights, image, view, tmp_path / "attention")
    maps = dict(drawn)
    assert [name for name, _ in maps["decoder_layer_0_cross_attention"]] == written
    for place, (_, heat) in enumerate(maps["decoder_layer_0_cross_attention"]):
        expected = weights["decoder/layer_0/cross_attention"][0, :, place].mean(axis=0).reshape(2, 3)
        np.testing.assert_array_equal(heat, expected)
    tower = weights["image/encoder/layer_0/self_attention"]
    np.testing.assert_array_equal(maps["image_encoder_layer_0_self_attention"][1][1], tower[0, 1, 0, 1:].reshape(2, 3))
    assert maps["rollout"][0][1].shape == (2, 3)
    ((shape, keys, queries, _, path),) = texts
    assert (shape, keys, queries) == ((2, 4, 4), ["[BOS]", "a", "star", "a"], written)
    assert path.stem == "decoder_layer_0_self_attention"


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        (
            "caption_scenes",
            {
                "image/encoder/layer_0/self_attention": ("patches", "patches"),
                "decoder/layer_0/self_attention": ("written", "read"),
                "decoder/layer_0/cross_attention": ("written", "patches"),
            },
        ),
        (
            "clip_scenes",
            {
                "image/encoder/layer_0/self_attention": ("patches", "patches"),
                "text/decoder/layer_0/self_attention": ("tokens", "tokens"),
            },
        ),
    ],
)
def test_models_of_images_and_texts_are_drawn_and_explored(config, layers, run, tmp_path):
    folder = tmp_path / "run"
    done = run("train", f"--config=configs/multimodal/{config}.py:tiny", f"--workdir={folder}")
    assert done.code == 0, done.stderr
    drawn = {path.stem for path in (folder / "attention").iterdir()}
    assert drawn == {"rollout", *(path.replace("/", "_") for path in layers)}
    notes = []
    looks = stored.shown(folder / "report.json", folder, notes)["attention"]
    assert looks and not notes
    for look in looks:
        assert {layer["path"]: (layer["rows"], layer["columns"]) for layer in look["layers"]} == layers
        for layer in look["layers"]:
            sizes = [16 if side == "patches" else len(look["tokens"][side]) for side in layers[layer["path"]]]
            assert layer["shape"] == [2, *sizes]
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(tmp_path / "grey.png")
    done = run("pictures", f"--workdir={folder}", str(tmp_path / "grey.png"))  # without a caption
    assert done.code == 0, done.stderr


def test_rows_of_a_text(run, tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    assert run("train", "--config=configs/translation/phrasebook.py:tiny", workdir).code == 0
    done = run("pictures", workdir, "2 hours", "--rows=0,1", "--layer=encoder/layer_0/self_attention", "--head=1")
    assert done.code == 0, done.stderr
    first, second = done.stdout.strip().splitlines()
    assert first.startswith("encoder/layer_0/self_attention, 0 ") and second.startswith(
        "encoder/layer_0/self_attention, 1"
    )
    weights = [float(part.split()[-1]) for part in first.split(": ")[1].split(", ")]
    assert weights == sorted(weights, reverse=True) and 0 < sum(weights) <= 1.003
    assert Image.open(tmp_path / "run/attention/encoder_layer_0_self_attention_rows.png").size[0] > 300
    bad = {
        "is not an attention layer of this model: use one of encoder": ("2 hours", "--rows=0", "--layer=nobody"),
        "row 900 is not there: ": ("2 hours", "--rows=900"),
        "--rows are tokens of a text: give the text as well": ("--rows=0",),
        "for the attention of single tokens: give their numbers as --rows": ("2 hours", "--head=0"),
    }
    for sentence, arguments in bad.items():
        done = run("pictures", workdir, *arguments)
        assert (done.code, done.stderr.count("\n")) == (2, 1) and sentence in done.stderr, done.stderr
