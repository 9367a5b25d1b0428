"""Training steps in bfloat16 as the loop runs them: tokens or images a second and MFU, beside torch.compile.

The state is float32, products and activations are bfloat16; batches are random and lie on the device. The other side
has the same sizes from transformers and timm, scaled_dot_product_attention, autocast to bfloat16 and fused AdamW.
"""

import functools
import types
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator.common import (
    Figures,
    compared,
    fail_without_accelerator,
    matmul_rate,
    options,
    other_side,
    seconds_of,
)
from benchmarks.accelerator.work import ROWS, Row
from benchmarks.turns import Other
from research.analysis import cost
from research.data.tokenizer import Tokenizer
from research.models.bert import BERT
from research.models.gpt import GPT
from research.models.resnet import ResNet
from research.models.swin import Swin
from research.models.vit import ViT
from research.tasks.classification import Classification
from research.tasks.language_modeling import LanguageModeling
from research.tasks.masked_language import MaskedLanguage
from research.training.inference import Precision
from research.training.optimizers import AdamW, build_optimizer
from research.training.state import create_state
from research.training.step import Step

GROUPS = (("gpt2", "vit_b16"), ("bert_base", "resnet50", "swin_t"))
"""Rows whose other sides are compiled at the same time, as many as fit in memory."""
STEPS, TURNS = 5, 5
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}
"""On both sides; no fused kernel drops weights."""


def task_and_model(row: Row) -> tuple[Any, Any]:
    """Those of a row, with a vocabulary of nothing but its marks."""
    vocabulary: Any = types.SimpleNamespace(end_token=0, pad=0)
    if row.kind == "gpt":
        task = LanguageModeling(Tokenizer("bpe", 8000), row.length, vocabulary=vocabulary)
        return task, GPT(row.vocabulary, max_length=row.length, **row.fields)
    if row.kind == "bert":
        task = MaskedLanguage(tokenizer=Tokenizer("wordpiece", 8000), length=row.length, vocabulary=vocabulary)
        return task, BERT(row.vocabulary, max_length=row.length, head="pretraining", **NO_DROPOUT, **row.fields)
    task = Classification(class_names=tuple(map(str, range(row.classes))), image_shape=(row.side, row.side, 3))
    return task, {"vit": ViT, "resnet": ResNet, "swin": Swin}[row.kind](num_classes=row.classes, **row.fields)


def batch_of(row: Row) -> dict[str, jax.Array]:
    """A batch as the row's task has it, of random values."""
    key = jax.random.key(0)
    weight = jnp.ones(row.batch, jnp.float32)
    if row.kind == "gpt":
        tokens = jax.random.randint(key, (row.batch, row.length + 1), 1, row.vocabulary)
        return {"tokens": tokens, "bytes": jnp.ones_like(tokens), "weight": weight}
    if row.kind == "bert":
        tokens = jax.random.randint(key, (row.batch, row.length), 1, row.vocabulary)
        chosen = row.length * 15 // 100
        places = jnp.broadcast_to(jnp.arange(chosen) * 6, (row.batch, chosen))
        marks = {"places": places, "labels": places + 1, "masked": jnp.ones(places.shape, jnp.float32)}
        return {"tokens": tokens, "segments": jnp.zeros_like(tokens), "weight": weight, **marks}
    images = jax.random.randint(key, (row.batch, row.side, row.side, 3), 0, 256).astype(jnp.uint8)
    return {"image": images, "label": jnp.arange(row.batch) % row.classes, "weight": weight}


def program(row: Row, precision: str = "params=float32,compute=bfloat16") -> tuple[Step, Any, dict[str, jax.Array]]:
    """The step of a row, its first state and a batch."""
    task, model = task_and_model(row)
    optimizer = build_optimizer(AdamW(1e-4, weight_decay=0.1), lambda step: 1.0)
    batch = batch_of(row)
    step = Step(model, task, optimizer, Precision.parse(precision), 0)
    inputs = task.model_inputs(jax.tree.map(lambda array: array[:1], batch))
    shapes = jax.eval_shape(lambda: create_state(model, inputs, optimizer, seed=0, ema=False))
    return step, drawn(shapes), batch


def drawn(shapes: Any) -> Any:
    """A state of these shapes, its kernels drawn by NumPy: compiling the initialisers takes minutes on a GPU."""
    random = np.random.default_rng(0)

    def values(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = jax.tree_util.keystr(path)
        if name.startswith(".params") and len(leaf.shape) > 1:
            return jnp.asarray(0.02 * random.standard_normal(leaf.shape, np.float32))
        one = name.startswith((".params", ".model_state")) and name.endswith(("['scale']", "['mean_square']"))
        return jnp.full(leaf.shape, one, leaf.dtype)

    return jax.tree_util.tree_map_with_path(values, shapes)


class Compiled:
    """The program of a row and what it trains."""

    def __init__(self, row: Row) -> None:
        self.row = row
        step, self.state, self.batch = program(row)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(self.state.params))
        self.operations = cost.flops(step.train, *jax.eval_shape(lambda: (self.state, self.batch)))
        self.step = jax.jit(step.train, donate_argnums=0).lower(self.state, self.batch).compile()

    def advance(self) -> tuple[jax.Array, jax.Array]:
        """One step; the sum of the loss and its weight."""
        self.state, metrics = self.step(self.state, self.batch)
        return metrics["loss"]


def measure(compiled: Compiled, found: dict[str, Any], rate: float, other: Other | None, tiny: bool) -> None:
    """Fills in the figures of a row."""
    row, text = compiled.row, compiled.step.as_text() or ""
    found["parameters"] = compiled.parameters
    found["cudnn_attention_calls"] = sum("fmha" in line for line in text.splitlines() if "custom_call_target" in line)
    found["temporary_megabytes"] = round(compiled.step.memory_analysis().temp_size_in_bytes / 1e6)

    def turn() -> float:
        return seconds_of(compiled.advance, 1 if tiny else STEPS, 1)[0]

    found.update(compared(turn, other and functools.partial(other.turn, "step"), 1 if tiny else TURNS))
    found["unit"] = "tokens" if row.length else "images"
    found["per_second"] = round(row.batch * (row.length or 1) / found["seconds"], 1)
    found["teraflops_of_a_step"] = round(compiled.operations / 1e12, 3)
    found["mfu"] = round(compiled.operations / found["seconds"] / rate, 4)
    if other:
        found["torch_mfu"] = round(compiled.operations / found["torch_seconds"] / rate, 4)


def main() -> None:
    """The part."""
    arguments = options()
    fail_without_accelerator(arguments.tiny)
    figures = Figures(arguments.output)
    rate = matmul_rate(arguments.tiny)
    figures.note(matmul_teraflops=round(rate / 1e12, 1))
    for group in GROUPS:
        rows = {name: ROWS[name].tiny() if arguments.tiny else ROWS[name] for name in group}
        others = {name: other_side(arguments, name) for name in group}
        with ThreadPoolExecutor(len(group)) as pool:
            jobs = {name: pool.submit(Compiled, row) for name, row in rows.items()}
        for name in group:
            with figures.row(name) as found:
                measure(jobs[name].result(), found, rate, others[name], arguments.tiny)
        for other in filter(None, others.values()):
            other.close()


if __name__ == "__main__":
    main()
