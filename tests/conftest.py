"""What every test relies on: the CPU, a compilation cache, shapes checked at run time, and commands to launch."""

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from jaxtyping import install_import_hook

from research.memory import LARGE_PAGES, TUNABLES

ROOT = Path(__file__).resolve().parent.parent

# Before JAX is imported, and through the environment, so that the processes which tests start do the same.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    TUNABLES: LARGE_PAGES,
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",  # compiling small models takes longer than running them
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache/jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "MPLBACKEND": "agg",
}
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or every command compiles all of this anew
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a suite in the background; what it starts would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
install_import_hook(["research.layers", "research.models", "research.decoding"], "beartype.beartype")


class Result(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def forked(tmp_path_factory) -> Iterator[Callable[..., Result]]:
    """`forked(module, arguments, environment)`: a command as a process of its own that has imported everything."""
    command = [sys.executable, "-m", "tests.zygote"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    outputs = [tmp_path_factory.mktemp("outputs") / name for name in ("out", "err")]

    def launch(module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Result:
        request = {"module": module, "arguments": list(arguments), "environment": dict(environment)}
        request |= {"folder": str(ROOT), "out": str(outputs[0]), "err": str(outputs[1])}
        zygote.stdin.write(json.dumps(request) + "\n")
        zygote.stdin.flush()
        code = int(zygote.stdout.readline())
        return Result(code, *(path.read_text(encoding="utf-8", errors="backslashreplace") for path in outputs))

    with subprocess.Popen(command, cwd=ROOT, **pipes) as zygote:
        yield launch
        zygote.stdin.close()


@pytest.fixture(scope="session")
def run(forked) -> Callable[..., Result]:
    """`run("train", "--config=...", XLA_FLAGS="...")`: `python -m experiments.train` at the root of the repository.

    Keywords are environment variables; those that Python or JAX read when they start need a start of their own. A
    command that takes more than ten minutes fails the test.
    """

    def launch(experiment: str, *arguments: str, **environment: str) -> Result:
        if all(name == "XLA_FLAGS" for name in environment):
            return forked(f"experiments.{experiment}", [*map(str, arguments)], os.environ | environment)
        command = [sys.executable, "-m", f"experiments.{experiment}", *map(str, arguments)]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=600
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return launch


@pytest.fixture(scope="session")
def trained(run, tmp_path_factory) -> Callable[[str], Path]:
    """`trained("configs/vision/digits.py:tiny")`: the folder of a finished run, made once. Tests may only read it."""

    @functools.cache
    def train(spec: str) -> Path:
        folder = tmp_path_factory.mktemp("trained") / "run"
        done = run("train", f"--config={spec}", f"--workdir={folder}")
        assert done.code == 0, done.stderr
        return folder

    return train
