"""Two sides of a benchmark that take turns, so that what else the machine does falls on both.

The other side is the same script in another environment (PyTorch's), started with `--serve`.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def serve(turn: Callable[[], float]) -> None:
    """The other side: takes a turn for each line on standard input and answers with the seconds it took."""
    for _ in sys.stdin:
        print(turn(), flush=True)


def measure(
    turn: Callable[[], float], name: str, torch_python: str, rounds: int, *, other: str, work: int, unit: str
) -> None:
    """Takes `rounds` turns, a first one to warm up not counted, and prints medians, their ratio and the spread of both.

    work: how many of `unit` a turn does.
    """
    command = [torch_python, "-m", f"benchmarks.{name}", "--serve"]
    root = Path(__file__).parents[1]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
    rates: dict[str, list[float]] = {"heed": [], other: []}
    for number in range(rounds + 1):
        ours = turn()
        process.stdin.write("\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            sys.exit(f"error: {torch_python} failed: what it needs is said at the top of benchmarks/{name}.py")
        if number > 0:
            rates["heed"].append(work / ours)
            rates[other].append(work / float(answer))
    process.stdin.close()
    process.wait()
    for side, values in rates.items():
        low, middle, high = min(values), statistics.median(values), max(values)
        print(f"{side:>13}: {middle:6.1f} {unit}/s (median of {rounds}; {low:.1f} to {high:.1f})")
    ratios = [ours / theirs for ours, theirs in zip(*rates.values(), strict=True)]
    print(f"{'ratio':>13}: {statistics.median(ratios):6.2f} (median of turns; {min(ratios):.2f} to {max(ratios):.2f})")


def run(main: Callable[[argparse.Namespace], None], name: str, description: str) -> None:
    """Parses the options that both sides' commands share and calls `main` with them."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--torch-python", default="python3", help="python of an environment with the other side")
    parser.add_argument("--rounds", type=int, default=9, help="turns that are measured")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    main(parser.parse_args())
