import json

import numpy as np
from PIL import Image

from experiments.benchmark import growth_table, models_table
from research.config import load

CONFIG = "configs/vision/compare.py"


def test_models_are_compared(run, tmp_path):
    code, stdout, stderr = run("benchmark", f"--config={CONFIG}:tiny", f"--output={tmp_path / 'compare'}")
    assert code == 0, stderr
    figures = json.loads((tmp_path / "compare/comparison.json").read_text())
    rows, tokens = figures["models"], figures["tokens"]
    assert {row["model"] for row in rows} == {"ResNet", "ViT"} and rows[0]["multiply_adds"] < rows[1]["multiply_adds"]
    assert all(row["milliseconds_8"] > 0 and row["memory_8"] > row["parameters"] * 4 for row in rows)
    attention, block = figures["growth"]["attention"], figures["growth"]["convolution block"]
    for size, megabytes in zip(tokens, attention["megabytes"], strict=True):
        assert megabytes * 1e6 >= 4 * size * size * 4  # four heads of float32 scores
    assert attention["megabytes_growth"] > block["megabytes_growth"]
    assert len(block["milliseconds"]) == len(tokens) and min(block["milliseconds"]) > 0
    text = (tmp_path / "compare/comparison.md").read_text()
    assert text in stdout and "published" not in text  # the tiny models have no accuracy
    for name in ("models.png", "tokens.png"):
        picture = np.asarray(Image.open(tmp_path / "compare" / name).convert("L"))
        assert picture.shape[1] > 800 and picture.std() > 10


def test_tables():
    row = {"parameters": 1_500_000, "multiply_adds": 2e9, "milliseconds_4": 8.0, "images_per_second_4": 500.0}
    rows = [
        {"model": "A", "accuracy": None, "memory_4": 3e6, **row},
        {"model": "B", "accuracy": 79.26, "memory_4": 4e6, **row},
    ]
    head, _, a, b = models_table(rows, [4]).splitlines()
    assert head.startswith("| model | top-1, % (published) | parameters, M |")
    assert a == "| A | - | 1.500 | 2.00 | 8.0 | 500.0 | 3 |" and b.startswith("| B | 79.3 |")
    curve = {"milliseconds": [1.0, 4.0], "megabytes": [2, 4]}
    curve |= {"milliseconds_growth": 2.0, "megabytes_growth": 1.0}
    lines = growth_table([8, 16], {"attention": curve}).splitlines()
    assert lines[0] == "| tokens | attention, ms | attention, MB |"
    assert lines[2:] == ["| 8 | 1.00 | 2.00 |", "| 16 | 4.00 | 4.00 |", "| grows with | tokens^2.00 | tokens^1.00 |"]


def test_every_compared_model_has_its_published_accuracy():
    models = load(CONFIG).models
    assert models["EfficientFormer-L1"].accuracy == 79.2 and models["MobileNetV2-140"].accuracy == 74.7  # the abstract
    assert all(70 < section.accuracy < 84 for section in models.values())
