"""Says what an experiment needs before it is paid for: `python -m experiments.doctor --config=FILE.py`.

Nothing is trained or written. With --mesh the report is for other devices than those at hand, such as 8x4 (data x fsdp,
then tensor and sequence) or fsdp=8,tensor=4: the step is compiled for as many forced devices of this CPU.
"""

import argparse
import math
import tempfile
from pathlib import Path

import jax

from research.config import load
from research.runs.command import add_config, run_command
from research.runs.doctor import diagnose, parse_mesh


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    if arguments.mesh:
        sizes = parse_mesh(arguments.mesh)
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", math.prod(sizes.values()))
        arguments.overrides |= {f"mesh.{axis}": size for axis, size in sizes.items()}
    with tempfile.TemporaryDirectory() as folder:
        config = load(arguments.config, arguments.overrides)
        options = {"memory": arguments.memory, "imagined": bool(arguments.mesh), "seconds": arguments.seconds}
        diagnose(config, Path(folder), **options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m experiments.doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config(parser)
    parser.add_argument("--mesh", help="other devices than those at hand, such as 8x4 or fsdp=8,tensor=4")
    parser.add_argument("--memory", type=float, help="memory of a device in GiB, where it is not the one at hand")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to time steps")
    run_command(main, parser)
