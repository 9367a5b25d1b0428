"""Compares vision models on this machine: `python -m experiments.benchmark --config=configs/vision/compare.py`.

Parameters, multiply-adds, latency (batch normalisation folded, models in turns), images a second, and memory. Then how
attention's time grows with the number of tokens.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.command import add_config, run_command
from experiments.experiment import MODELS
from research.analysis import cost
from research.analysis.latency import growth, measure
from research.config import choose, load
from research.errors import UserError
from research.files import write_json
from research.layers.attention import dot_product_attention
from research.layers.convolution import fold

TOKENS = (256, 512, 1024, 2048)


def inference(model: Any, variables: Mapping[str, Any]) -> tuple[Any, Any]:
    """The model as it is used, batch normalisation folded where it has one, and its variables."""
    if "batch_stats" not in variables:
        return model, variables
    return model.clone(folded=True), fold(variables)


def compare(config: ConfigDict) -> list[dict[str, Any]]:
    """One row for each model; milliseconds are medians of a forward pass, memory is what the compiler plans."""
    rows, calls = {}, {}
    for label, section in config.models.items():
        model = choose(MODELS, section, f"models.{label}", num_classes=config.num_classes)
        variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, config.size, config.size, 3)))
        parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        model, variables = inference(model, variables)
        image = jax.ShapeDtypeStruct((1, config.size, config.size, 3), jnp.float32)
        rows[label] = {
            "model": label,
            "parameters": parameters,
            "multiply_adds": cost.flops(model.apply, variables, image) // 2,
        }
        for batch in config.batch_sizes:
            images = jnp.zeros((batch, config.size, config.size, 3))
            compiled = jax.jit(model.apply).lower(variables, images).compile()
            rows[label][f"memory_{batch}"] = cost.memory(compiled).total
            calls[label, batch] = _call(compiled, variables, images)
    seconds = measure(calls, config.rounds)
    for (label, batch), values in seconds.items():
        rows[label][f"milliseconds_{batch}"] = 1000 * float(np.median(values))
        rows[label][f"images_per_second_{batch}"] = batch / float(np.median(values))
    return list(rows.values())


def _call(compiled: jax.stages.Compiled, *arguments: Any) -> Callable[[], Any]:
    return lambda: compiled(*arguments)


def attention_growth(rounds: int) -> float:
    """The exponent with which the time of attention grows with the number of tokens (4 heads of 64)."""
    attend = jax.jit(dot_product_attention)
    inputs = {tokens: jnp.ones((1, tokens, 4, 64)) for tokens in TOKENS}
    seconds = measure({str(n): _call(attend, x, x, x) for n, x in inputs.items()}, rounds)
    return growth(np.array(TOKENS), np.array([np.median(values) for values in seconds.values()]))


def _print(rows: list[Mapping[str, Any]], batch_sizes: list[int]) -> None:
    heads = [f"ms, batch {batch}" for batch in batch_sizes] + [f"images/s, batch {batch_sizes[-1]}", "memory, MB"]
    print("| model | parameters, M | multiply-adds, G | " + " | ".join(heads) + " |")
    print("|---" * (3 + len(heads)) + "|")
    for row in rows:
        values = [f"{row['parameters'] / 1e6:.3f}", f"{row['multiply_adds'] / 1e9:.2f}"]
        values += [f"{row[f'milliseconds_{batch}']:.1f}" for batch in batch_sizes]
        values += [
            f"{row[f'images_per_second_{batch_sizes[-1]}']:.1f}",
            f"{row[f'memory_{batch_sizes[-1]}'] / 1e6:.0f}",
        ]
        print(f"| {row['model']} | " + " | ".join(values) + " |")


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    config = load(arguments.config, arguments.overrides)
    if not config.get("models"):
        raise UserError(f"{arguments.config} lists no models to compare: use configs/vision/compare.py")
    device = jax.devices()[0]
    print(f"{config.size} x {config.size} pixels, float32, {device.device_kind}, median of {config.rounds} rounds\n")
    rows = compare(config)
    _print(rows, list(config.batch_sizes))
    exponent = attention_growth(config.rounds)
    print(f"\nattention takes time proportional to tokens^{exponent:.2f} ({TOKENS[0]} to {TOKENS[-1]} tokens)")
    if arguments.output:
        write_json(Path(arguments.output), json.loads(json.dumps({"models": rows, "attention_exponent": exponent})))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config(parser)
    parser.add_argument("--output", help="a JSON file for the figures")
    run_command(main, parser)
