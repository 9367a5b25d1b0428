"""Tries `--overfit=8` and `--prove-resume` with every shipped config at its tiny size; about half an hour.

python -m tests.experiments.config_proofs --kills=1 --only=vision
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.experiments.test_configs import CONFIGS, ROOT, spec_and_overrides, write_data


def main(arguments: argparse.Namespace) -> int:
    """Prints a line for each config and check; the number of those that fail."""
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch)
        write_data(data)
        for config in (config for config in CONFIGS if arguments.only in config):
            spec, overrides = spec_and_overrides(config, data)
            changes = [f"--config.{path}={value}" for path, value in overrides.items()]
            for option in ("--overfit=8", f"--prove-resume={arguments.kills}"):
                command = [sys.executable, "-m", "experiments.train", f"--config={spec}tiny", *changes, option]
                started = time.monotonic()
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
                failed += done.returncode != 0
                words = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()[-1:]
                print(f"{config} {option}: {done.returncode} {words} {time.monotonic() - started:.0f} s", flush=True)
    print(f"{failed} failed")
    return failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--only", default="", help="a part of the configs' names")
    sys.exit(bool(main(parser.parse_args())))
