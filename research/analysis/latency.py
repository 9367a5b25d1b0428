"""How long functions take, measured in turns so that a busy moment of the machine hits all of them alike."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


def measure[Name](functions: Mapping[Name, Callable[[], Any]], rounds: int = 20) -> dict[Name, np.ndarray]:
    """Seconds of each call, float64 [rounds], by name. Every function is called once before the clock starts, and once
    in each round; a call ends when its results are there."""
    for function in functions.values():
        jax.block_until_ready(function())
    seconds: dict[Name, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            began = time.perf_counter()
            jax.block_until_ready(function())
            seconds[name].append(time.perf_counter() - began)
    return {name: np.array(values) for name, values in seconds.items()}


def growth(sizes: np.ndarray, values: np.ndarray) -> float:
    """The exponent e of the best fit values = c · sizes^e, by least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])
