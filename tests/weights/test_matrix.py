"""The matrix of docs/weights.md is what the tables and the golden files say: `python -m tests.weights.test_matrix`."""

import json
import re
from pathlib import Path

from research.weights.families import FAMILIES
from research.weights.timm import examples

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "weights.md"
GOLDEN = ROOT / "tests" / "fixtures"
NOT_SCANNED = {"detr", "upernet", "swin", "segformer", "resnet", "mobilenet", "efficientformer"}
TIMM = {
    "vit": ("vit", "ViT"),
    "deit": ("vit", "DeiT, distilled"),
    "swin": ("swin", "Swin"),
    "efficientformer": ("efficientformer", "EfficientFormer"),
    "resnet_bottleneck": ("resnet", "ResNet"),
    "mobilenet_v2": ("mobilenet", "MobileNetV2"),
    "mobilenet_v3": ("mobilenet", "MobileNetV3-Large"),
}
"""Golden files of timm, with our model and how it is called."""


def rows():
    """(library, architecture, our model, direction, layers, as a run)."""
    proved = {}
    for path in sorted((GOLDEN / "transformers").iterdir()):
        proved[json.loads((path / "config.json").read_text())["architectures"][0]] = path.name
    for family in FAMILIES:
        for architecture, variants in family.architectures.items():
            layers = "single" if family.model in NOT_SCANNED else "single, scanned"
            task = None if variants[0].get("num_classes") == 0 else family.task
            golden = f"`{proved[architecture]}`" if architecture in proved else "as its family's"
            yield (
                "transformers",
                architecture,
                family.model,
                "both",
                layers,
                task or "-",
                golden,
            )
    for golden, (model, name) in TIMM.items():
        assert (GOLDEN / "golden" / f"{golden}.safetensors").exists()
        layers = "single" if model in NOT_SCANNED else "single, scanned"
        yield "timm", name, model, "both", layers, "classification", f"`{golden}`"
    yield "original `.npz`", "ViT", "vit", "in", "single, scanned", "classification", "`vit`, renamed"


def matrix():
    head = ("library", "model", "ours", "direction", "layers", "as a run", "golden file")
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows())]
    lines += ["", f"timm's architectures: {', '.join(f'`{name}`' for name in examples())}."]
    return "\n".join(lines)


def test_the_page_has_it():
    (found,) = re.findall(r"<!-- matrix -->\n(.*?)\n<!-- /matrix -->", PAGE.read_text(), re.DOTALL)
    assert found == matrix(), "run `python -m tests.weights.test_matrix`"


if __name__ == "__main__":
    before, after = re.split(r"(?<=<!-- matrix -->\n).*(?=<!-- /matrix -->)", PAGE.read_text(), flags=re.DOTALL)
    PAGE.write_text(f"{before}{matrix()}\n{after}")
