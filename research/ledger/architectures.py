"""The size and cost of published architectures, counted from their definitions, beside what their papers say."""

import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.analysis import cost
from research.layers.dot_product import dot_product_attention
from research.models import efficientformer, resnet, seq2seq, swin, vit
from research.models.detr import DETR
from research.models.efficientformer import EfficientFormer
from research.models.gpt import GPT
from research.models.mae import MAE
from research.models.mobilenet import MobileNet
from research.models.resnet import ResNet
from research.models.rnn import LSTM
from research.models.segformer import SegFormer
from research.models.seq2seq import Seq2Seq
from research.models.swin import Swin
from research.models.transunet import TransUNet
from research.models.upernet import UPerNet
from research.models.vit import ViT

STORED = Path(__file__).parent / "results" / "architectures.json"
TOLERANCE = 0.02
"""By which multiply-adds may differ: the published ones have two digits."""

REFERENCE = "measured on the reference implementation"
TIMM = "measured on timm 1.0"
VASWANI = "Vaswani et al. 2017, table 3"
LARGER_VOCABULARY = 1.92
"""Millions of parameters at width 512 by which the paper's vocabulary exceeds 37,000: its base model says 65, not
63.08, and the other rows of its table have the same vocabulary."""

SECOND_HEAD = 0.925334
"""Millions of parameters that the reference implementation's UPerNet has for its training, and in a norm that it does
not use."""


class Row(NamedTuple):
    """A published model: millions of parameters with the digits that were published, and billions of multiply-adds.

    surplus: millions that the published count has and this one is known to lack. within: by which millions may differ,
    half of their last digit unless given.
    """

    name: str
    build: Callable[[], tuple[nn.Module, tuple[Any, ...]]]
    millions: str
    source: str
    billions: float | None = None
    surplus: float = 0.0
    within: float | None = None


def _image(model: nn.Module) -> tuple[nn.Module, tuple[Any, ...]]:
    return model, (jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32),)


def _tokens(model: nn.Module, count: int) -> tuple[nn.Module, tuple[Any, ...]]:
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    valid = jax.ShapeDtypeStruct((1, 8), jnp.bool_)
    return model, (tokens, tokens, valid)[:count]


def _transformer(name: str, millions: str, source: str, **fields: Any) -> Row:
    return Row(f"Transformer {name}", lambda: _tokens(Seq2Seq(37_000, **fields), 3), millions, source)


def _variation(name: str, millions: str, **fields: Any) -> Row:
    surplus = LARGER_VOCABULARY * fields.get("width", 512) / 512
    return _transformer(name, millions, VASWANI, **fields)._replace(surplus=surplus, within=1.0)


def _vision(name: str, model: Callable[[], nn.Module], millions: str, billions: float, paper: str) -> Row:
    return Row(name, lambda: _image(model()), millions, f"{TIMM}; {paper}", billions)


def _mae() -> tuple[nn.Module, tuple[Any, ...]]:
    model, images = _image(MAE())
    return model, (*images, jax.ShapeDtypeStruct((1, 196), jnp.int32))


def _segformer() -> tuple[nn.Module, tuple[Any, ...]]:
    return _image(SegFormer(150))


def _transunet() -> tuple[nn.Module, tuple[Any, ...]]:
    backbone = ResNet(0, depths=(3, 4, 9), bottleneck=True, stem_level=True)
    encoder = ViT(0, **vit.fields("B/16") | {"patch_size": 1, "pool": "mean"})
    return _image(TransUNet(9, backbone, encoder))


def _upernet() -> tuple[nn.Module, tuple[Any, ...]]:
    return _image(UPerNet(150, Swin(0, **swin.fields("T"), norm_levels=True)))


def _detr() -> tuple[nn.Module, tuple[Any, ...]]:
    return _image(DETR(91, ResNet(0, **resnet.fields("50"), frozen_norm=True)))


def _vit(size: str, millions: str, billions: float) -> Row:
    build = functools.partial(ViT, 1000, **vit.fields(size))
    return _vision(f"ViT-{size}", build, millions, billions, "Dosovitskiy et al. 2021, Touvron et al. 2021")


def _swin(size: str, millions: str, billions: float) -> Row:
    build = functools.partial(Swin, 1000, **swin.fields(size))
    return _vision(f"Swin-{size}", build, millions, billions, "Liu et al. 2021, table 1")


def _efficientformer(size: str, millions: str, billions: float) -> Row:
    build = functools.partial(EfficientFormer, 1000, **efficientformer.fields(size))
    return _vision(f"EfficientFormer-{size}", build, millions, billions, "Li et al. 2022, table 1")


ROWS = (
    _transformer("base, 37k vocabulary", "63.08", REFERENCE, **seq2seq.SIZES["base"]),
    _transformer("big, 37k vocabulary", "214.2", REFERENCE, **seq2seq.SIZES["big"]),
    _variation("N=2", "36", num_layers=2),
    _variation("N=4", "50", num_layers=4),
    _variation("N=8", "80", num_layers=8),
    _variation("d_model=256, d_k=d_v=32", "28", width=256, head_size=32),
    _variation("d_model=1024, d_k=d_v=128", "168", width=1024, head_size=128),
    _variation("d_ff=1024", "53", mlp_width=1024),
    _variation("d_ff=4096", "90", mlp_width=4096),
    _variation("d_k=16", "58", head_size=16, value_size=64),
    _variation("d_k=32", "60", head_size=32, value_size=64),
    Row("GPT-2 small", lambda: _tokens(GPT(50_257, 12, 768, 12), 1), "124.440", "measured on transformers 5"),
    _vit("Ti/16", "5.717", 1.26),
    _vit("S/16", "22.051", 4.6),
    _vit("B/16", "86.568", 17.6),
    _vit("B/32", "88.224", 4.4),
    _vit("L/16", "304.327", 61.6),
    _vision(
        "DeiT-B distilled",
        functools.partial(ViT, 1000, **vit.fields("B/16"), distillation=True),
        "87.338",
        17.6,
        "Touvron et al. 2021",
    ),
    _swin("T", "28.288", 4.5),
    _swin("S", "49.606", 8.7),
    _swin("B", "87.768", 15.4),
    _efficientformer("L1", "12.290", 1.3),
    _efficientformer("L3", "31.406", 3.9),
    _efficientformer("L7", "82.229", 10.2),
    _vision("ResNet-50", functools.partial(ResNet, 1000, **resnet.fields("50")), "25.557", 4.1, "its paper"),
    _vision("MobileNetV2 1.0", functools.partial(MobileNet, 1000, "v2"), "3.505", 0.30, "its paper"),
    _vision("MobileNetV3-Large", functools.partial(MobileNet, 1000, "v3"), "5.483", 0.22, "its paper"),
    Row("SegFormer-B0, 150 classes", _segformer, "3.753", f"{REFERENCE}; Xie et al. 2021, table 1"),
    Row("TransUNet R50-ViT-B/16, 9 classes", _transunet, "105.277", "measured on the authors' code"),
    Row("UPerNet with Swin-T, 150 classes", _upernet, "59.943", REFERENCE, surplus=SECOND_HEAD),
    Row("DETR-R50, 91 classes", _detr, "41.5", f"{REFERENCE}; Carion et al. 2020, table 1"),
    Row("MAE ViT-B/16 with its decoder", _mae, "111.66", REFERENCE),
)

NOT_BUILT = {
    "BERT-base (MLM, QA, classification, pre-training)": "109.514, 108.893, 109.484, 110.106",
    "T5-small": "60.507",
    "CLIP ViT-B/32": "151.277",
}
"""Models that the code does not have yet, with their published millions of parameters."""


def measure(row: Row) -> dict[str, Any]:
    """The row's counts beside the published ones, and whether they agree."""
    model, inputs = row.build()
    variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    millions = sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) / 1e6
    digits = len(row.millions.partition(".")[2])
    within = 0.5 * 10**-digits if row.within is None else row.within
    ok = abs(millions + row.surplus - float(row.millions)) <= within + 1e-9
    billions = None
    if row.billions is not None:
        billions = cost.flops(model.apply, variables, *inputs) / 2e9
        ok = ok and abs(billions / row.billions - 1) <= TOLERANCE
    return {
        "model": row.name,
        "millions": round(millions, 3),
        "published_millions": row.millions,
        "surplus": round(row.surplus, 3),
        "source": row.source,
        "billions": billions and round(billions, 3),
        "published_billions": row.billions,
        "ok": ok,
    }


KERNEL = 3  # k of the convolutional layer


def _recurrent(length: int, width: int) -> int:
    """The recurrence of an LSTM layer alone: its inputs enter before the loop, with products that run in parallel."""
    layer, x = LSTM(width), jax.ShapeDtypeStruct((1, length, width), jnp.float32)
    valid = jax.ShapeDtypeStruct((1, length), jnp.bool_)
    variables = jax.eval_shape(layer.init, jax.random.key(0), x, valid)
    return cost.flops(layer.apply, variables, x, valid)


def _convolutional(length: int, width: int) -> int:
    layer, x = nn.Conv(width, (KERNEL,)), jax.ShapeDtypeStruct((1, length, width), jnp.float32)
    return cost.flops(layer.apply, jax.eval_shape(layer.init, jax.random.key(0), x), x)


def _self_attention(length: int, width: int) -> int:
    x = jax.ShapeDtypeStruct((1, length, 1, width), jnp.float32)
    return cost.flops(dot_product_attention, x, x, x)


LAYERS = {
    "self-attention": (_self_attention, (2, 1), "O(1)", "O(1)"),
    "recurrent": (_recurrent, (1, 2), "O(n)", "O(n)"),
    "convolutional": (_convolutional, (1, 2), "O(1)", "O(log_k(n))"),
}
"""Table 1 of the paper: operations grow as n^a d^b; sequential operations and the longest path as it states them."""


def exponents(operations: Callable[[int, int], int]) -> tuple[float, float]:
    """By which powers of the length and of the width a layer's operations grow, from doubling each."""
    start = operations(256, 256)
    return math.log2(operations(512, 256) / start), math.log2(operations(256, 512) / start)


def compute() -> dict[str, Any]:
    """Everything that the command prints."""
    layers = []
    for name, (operations, published, sequential, path) in LAYERS.items():
        found = exponents(operations)
        ok = all(abs(a - b) < 0.01 for a, b in zip(found, published, strict=True))
        row = {"layer": name, "n": round(found[0], 3), "d": round(found[1], 3), "published": published, "ok": ok}
        layers.append({**row, "sequential_operations": sequential, "longest_path": path})
    models = [measure(row) for row in ROWS]
    return json.loads(json.dumps({"models": models, "layers": layers, "not_built": NOT_BUILT}))


def architecture_table(counts: Mapping[str, Any]) -> str:
    """What `compute` returned, as Markdown."""
    lines = ["| model | parameters, M | published | multiply-adds, G | published | source | |", "|---" * 7 + "|"]
    for row in counts["models"]:
        surplus = f" (+ {row['surplus']:.2f})" if row["surplus"] else ""
        macs = (f"{row['billions']:.3f}", f"{row['published_billions']:g}") if row["billions"] else ("-", "-")
        cells = (row["model"], f"{row['millions']:.3f}{surplus}", row["published_millions"], *macs, row["source"])
        lines.append(f"| {' | '.join(cells)} | {'equal' if row['ok'] else 'OFF'} |")
    for name, millions in counts["not_built"].items():
        lines.append(f"| {name} | - | {millions} | - | - | | not built |")
    lines += ["", "| layer | operations | published | sequential operations | longest path | |", "|---" * 6 + "|"]
    for row in counts["layers"]:
        found, published = (f"n^{n:g} d^{d:g}" for n, d in ((row["n"], row["d"]), row["published"]))
        cells = (row["layer"], found, published, row["sequential_operations"], row["longest_path"])
        lines.append(f"| {' | '.join(cells)} | {'equal' if row['ok'] else 'OFF'} |")
    return "\n".join(lines)
