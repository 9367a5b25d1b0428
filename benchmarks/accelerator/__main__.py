"""What this code reaches on an accelerator, beside PyTorch on the same one: at most 25 minutes on one GPU.

    python -m benchmarks.accelerator --output=accelerator.json
    python -m benchmarks.accelerator --parts=attention,training --torch-python=/tmp/torch/bin/python

parity: losses and gradients of small configs in float32 against the same on this machine's CPU. attention: which
programs call cuDNN, their time and memory by length, beside torch's scaled_dot_product_attention. training: tokens or
images a second and MFU in bfloat16, beside torch.compile. decoding: tokens a second, beside `generate`.

MFU is the model's floating-point operations (matrix products and convolutions of the forward and backward pass, counted
in the traced program, attention's whole square included) a second over the rate of a large bfloat16 matrix product,
measured in the same run. Each part is a process of its own with a limit of time; one that fails is said and the others
go on. The other side needs an environment with torch, transformers and timm; without --torch-python there is none.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SECONDS = {"parity": 300, "attention": 240, "training": 660, "decoding": 300}
"""The limit of each part: 25 minutes together."""
ROOT = Path(__file__).parents[2]
MEMORY_SHARE = "0.4"
"""Of the accelerator's memory, what JAX takes: the other side lives beside it."""


def run_part(name: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What a part wrote, with its seconds and, where it failed or ran out of time, what it said last."""
    output = folder / f"{name}.json"
    command = [sys.executable, "-m", f"benchmarks.accelerator.{name}", f"--output={output}"]
    command += [f"--torch-python={arguments.torch_python}"] if arguments.torch_python else []
    command += ["--tiny"] if arguments.tiny else []
    environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": MEMORY_SHARE} | os.environ
    began = time.perf_counter()
    limit = SECONDS[name] * arguments.limit
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        process.wait(limit)
        failure = {"failed": f"ended with {process.returncode}"} if process.returncode else {}
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the other sides as well
        process.wait()
        failure = {"failed": f"not over after {limit:.0f} s"}
    found = json.loads(output.read_text()) if output.exists() else {}
    return found | {"seconds": round(time.perf_counter() - began, 1)} | failure


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", default=",".join(SECONDS), help="which, with commas between them")
    parser.add_argument("--output", type=Path, default=Path("accelerator.json"), help="where the figures go")
    parser.add_argument("--torch-python", help="python of an environment with torch, transformers and timm")
    parser.add_argument("--limit", type=float, default=1.0, help="factor on the parts' limits of time")
    parser.add_argument("--tiny", action="store_true", help="sizes that say nothing, to try the command on any machine")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if unknown := [part for part in parts if part not in SECONDS]:
        parser.error(f"--parts {unknown[0]!r} is none of {', '.join(SECONDS)}")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            print(f"== {part}", flush=True)
            found[part] = run_part(part, arguments, Path(folder))
            arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    failed = {part: values["failed"] for part, values in found.items() if "failed" in values}
    for part, why in failed.items():
        print(f"error: {part} {why}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
