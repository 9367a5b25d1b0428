"""What every test relies on: the CPU, a compilation cache, shapes checked at run time, and commands to launch."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from jaxtyping import install_import_hook

ROOT = Path(__file__).resolve().parent.parent

# Before JAX is imported, and through the environment, so that the processes which tests start do the same.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache/jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "MPLBACKEND": "agg",
}
install_import_hook(["research.layers", "research.models", "research.decoding"], "beartype.beartype")


class Result(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def run() -> Callable[..., Result]:
    """`run("train", "--config=...", XLA_FLAGS="...")`: `python -m experiments.train` at the root of the repository.

    Keywords are environment variables. A command that takes more than ten minutes fails the test.
    """

    def launch(experiment: str, *arguments: str, **environment: str) -> Result:
        command = [sys.executable, "-m", f"experiments.{experiment}", *map(str, arguments)]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=600
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return launch
