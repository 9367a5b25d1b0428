"""Memory that is full ends a command in one sentence."""

import subprocess
import sys
import textwrap

import pytest


@pytest.mark.parametrize(
    "raised",
    [
        "MemoryError('Unable to allocate 7.45 GiB')",
        "jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes.')",
        "jax.errors.JaxRuntimeError('INTERNAL: Error dispatching computation: Out of memory allocating 8 bytes.')",
    ],
)
def test_memory_that_is_full_is_a_sentence(raised):
    done = _command(raised)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: memory is full (") and "training.batch_size" in done.stderr


def test_other_errors_of_the_runtime_keep_their_traceback():
    done = _command("jax.errors.JaxRuntimeError('INTERNAL: something else')")
    assert done.returncode == 1 and "Traceback" in done.stderr


def _command(raised: str) -> subprocess.CompletedProcess:
    program = textwrap.dedent(f"""
        import argparse
        import jax
        from research.runs.command import run_command
        def main(arguments):
            raise {raised}
        run_command(main, argparse.ArgumentParser())
    """)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
