"""What the parts share: options, figures that are written as they come, times, and the accelerator's own rates."""

import argparse
import json
import math
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.turns import Other, pairs


class Figures:
    """What a part measured, a JSON file that is whole after every row."""

    def __init__(self, output: Path) -> None:
        self.output = output
        device = jax.devices()[0]
        self.found: dict[str, Any] = {"device": device.device_kind, "jax": jax.__version__, "rows": {}}
        self._write()

    def note(self, **values: Any) -> None:
        """Facts of the whole part."""
        self.found |= values
        self._write()

    @contextmanager
    def row(self, name: str) -> Iterator[dict[str, Any]]:
        """A row to be filled in. One that fails says why, and the others go on."""
        row: dict[str, Any] = {}
        try:
            yield row
        except Exception as error:
            traceback.print_exc()
            row["failed"] = f"{type(error).__name__}: {str(error)[:300]}"
        self.found["rows"][name] = row
        print(name, json.dumps(row), flush=True)
        self._write()

    def _write(self) -> None:
        self.output.write_text(json.dumps(self.found, indent=1))


def options() -> argparse.Namespace:
    """Those that the command gives to each part."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--torch-python")
    parser.add_argument("--tiny", action="store_true")
    return parser.parse_args()


def seconds_of(call: Callable[[], Any], calls: int = 10, rounds: int = 3) -> list[float]:
    """Seconds of a call, one figure for each round of `calls` of them; the first round is not counted."""
    found = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        for _ in range(calls):
            result = call()
        jax.block_until_ready(result)
        found.append((time.perf_counter() - began) / calls)
    return found[1:]


def matmul_rate(tiny: bool) -> float:
    """FLOPs a second of a large bfloat16 matrix product on random values, the best of five rounds."""
    side = 256 if tiny else 8192
    left, right = (jax.random.normal(jax.random.key(seed), (side, side), jnp.bfloat16) for seed in (0, 1))
    product = jax.jit(jnp.matmul)
    return 2 * side**3 / min(seconds_of(lambda: product(left, right), rounds=5))


def compared(ours: Callable[[], float], theirs: Callable[[], float] | None, turns: int) -> dict[str, Any]:
    """Seconds of both sides, who take turns, and the ratios of the pairs, theirs / ours: median, least and most."""
    taken = pairs(ours, theirs or (lambda: math.nan), turns)
    found: dict[str, Any] = {"seconds": statistics.median(mine for mine, _ in taken)}
    if theirs:
        ratios = [other / mine for mine, other in taken]
        found["torch_seconds"] = statistics.median(other for _, other in taken)
        found["ratio"] = [round(value, 3) for value in (statistics.median(ratios), min(ratios), max(ratios))]
    return found


def other_side(arguments: argparse.Namespace, name: str) -> Other | None:
    """PyTorch's process for what `name` stands for; None where no environment for it was named."""
    if not arguments.torch_python:
        return None
    return Other(arguments.torch_python, "accelerator.torch_side", name, *["--tiny"] * arguments.tiny)


def fail_without_accelerator(tiny: bool) -> None:
    if jax.default_backend() == "cpu" and not tiny:
        sys.exit("error: JAX finds no accelerator here: install the extra cuda, or give --tiny to try the command")
