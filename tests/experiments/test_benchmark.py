import json

import numpy as np
import pytest
from PIL import Image

from research.config import load
from research.ledger.latency import Comparison, growth_table, models_table

CONFIG = "configs/vision/compare.py"


def test_models_are_compared(run, tmp_path):
    code, stdout, stderr = run("benchmark", f"--config={CONFIG}:tiny", f"--workdir={tmp_path / 'compare'}")
    assert code == 0, stderr
    results = json.loads((tmp_path / "compare/results.json").read_text())
    assert results["ViT/multiply_adds"] < results["ResNet/multiply_adds"]
    for model in ("ResNet", "ViT"):
        assert results[f"{model}/milliseconds_8"] > 0
        assert results[f"{model}/memory_8"] > results[f"{model}/parameters"] * 4
        relative = results[f"{model}/milliseconds_1"] / results["ResNet/milliseconds_1"]
        assert results[f"{model}/relative_1"] == pytest.approx(relative)
    assert results["attention/megabytes_growth"] > results["convolution block/megabytes_growth"]
    text = (tmp_path / "compare/comparison.md").read_text()
    assert text in stdout and "published" not in text  # the tiny models have no accuracy
    header, _, *lines = [line.split(" | ") for line in text.splitlines() if line.startswith("|")][4:-1]
    for cells in lines:
        size, megabytes = int(cells[0].strip("| ")), float(cells[header.index("attention, MB")])
        assert megabytes * 1e6 >= 4 * size * size * 4  # four heads of float32 scores
    for name in ("models.png", "tokens.png"):
        picture = np.asarray(Image.open(tmp_path / "compare" / name).convert("L"))
        assert picture.shape[1] > 800 and picture.std() > 10


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("--config.round=5", "did you mean rounds"),
        ("--config.batch_sizes=[8]", "lack 1"),
        ("--config.reference=ResNett", "did you mean ResNet"),
        ("--config.sides=[8]", "2 sides or more"),
    ],
)
def test_settings_that_make_no_sense_end_before_anything_is_measured(override, words, run, tmp_path):
    done = run("benchmark", f"--config={CONFIG}:tiny", f"--workdir={tmp_path / 'compare'}", override)
    assert done.code == 2 and words in done.stderr and not (tmp_path / "compare").exists()


def test_tables():
    row = {
        "parameters": 1_500_000,
        "multiply_adds": 2e9,
        "milliseconds_1": 2.0,
        "milliseconds_4": 8.0,
        "images_per_second_4": 500.0,
    }
    rows = [
        {"model": "A", "relative_1": 1.0, "memory_4": 3e6, **row},
        {"model": "B", "relative_1": 1.5, "memory_4": 4e6, **row},
    ]
    models = {"A": {}, "B": {"accuracy": 79.3}}
    config = Comparison(models, reference="A", size=8, num_classes=2, batch_sizes=(1, 4), rounds=1, sides=(8, 16))
    head, _, a, b = models_table(config, rows).splitlines()
    assert head.startswith("| model | top-1, % (published) | parameters, M |") and "| times A |" in head
    assert a == "| A | - | 1.500 | 2.00 | 2.0 | 8.0 | 1.00 | 500.0 | 3 |" and b.startswith("| B | 79.3 |")
    curve = {"milliseconds": [1.0, 4.0], "megabytes": [2, 4]}
    curve |= {"milliseconds_growth": 2.0, "megabytes_growth": 1.0}
    lines = growth_table([8, 16], {"attention": curve}).splitlines()
    assert lines[0] == "| tokens | attention, ms | attention, MB |"
    assert lines[2:] == ["| 8 | 1.00 | 2.00 |", "| 16 | 4.00 | 4.00 |", "| grows with | tokens^2.00 | tokens^1.00 |"]


def test_every_compared_model_has_its_published_accuracy():
    models = load(CONFIG).models
    assert models["EfficientFormer-L1"].accuracy == 79.2 and models["MobileNetV2-140"].accuracy == 74.7  # the abstract
    assert all(70 < section.accuracy < 84 for section in models.values())
