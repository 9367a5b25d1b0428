"""Two sides of a benchmark that take turns, so that what else the machine does falls on both.

The other side is the same script in another environment (PyTorch's), started with `--serve`.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def serve(turn: Callable[[str], float]) -> None:
    """The other side: takes a turn at the work that each line on standard input names, and answers with its seconds."""
    for line in sys.stdin:
        print(turn(line.strip()), flush=True)


class Other:
    """The other side, in a process and an environment of its own."""

    def __init__(self, python: str, module: str, *arguments: str) -> None:
        self._command = [python, "-m", f"benchmarks.{module}", *arguments]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(self._command, cwd=Path(__file__).parents[1], **pipes)

    def turn(self, work: str = "") -> float:
        """Seconds of a turn at this work. Raises RuntimeError where the process has ended."""
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{work}\n")
            self._process.stdin.flush()
        if answer := self._process.stdout.readline():
            return float(answer)
        raise RuntimeError(f"{' '.join(self._command)} ended with {self._process.wait()}")

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()


def pairs(ours: Callable[[], float], theirs: Callable[[], float], turns: int) -> list[tuple[float, float]]:
    """Seconds of both sides, who take turns; a first pair is not counted."""
    return [(ours(), theirs()) for _ in range(turns + 1)][1:]


def measure(
    turn: Callable[[], float], name: str, torch_python: str, rounds: int, *, other: str, work: int, unit: str
) -> None:
    """Takes `rounds` turns and prints medians, their ratio and the spread of both.

    work: how many of `unit` a turn does.
    """
    side = Other(torch_python, name, "--serve")
    try:
        taken = pairs(turn, side.turn, rounds)
    except RuntimeError as error:
        sys.exit(f"error: {error}: what it needs is said at the top of benchmarks/{name}.py")
    finally:
        side.close()
    for title, seconds in zip(("heed", other), zip(*taken, strict=True), strict=True):
        rates = [work / each for each in seconds]
        low, middle, high = min(rates), statistics.median(rates), max(rates)
        print(f"{title:>13}: {middle:6.1f} {unit}/s (median of {rounds}; {low:.1f} to {high:.1f})")
    ratios = [theirs / ours for ours, theirs in taken]
    print(f"{'ratio':>13}: {statistics.median(ratios):6.2f} (median of turns; {min(ratios):.2f} to {max(ratios):.2f})")


def contest(
    arguments: argparse.Namespace,
    name: str,
    ours: Callable[[], Callable[[], Any]],
    theirs: Callable[[], Callable[[], Any]],
    check: Callable[[Any, str], None],
    *,
    times: int = 1,
    **work: Any,
) -> None:
    """The command of a benchmark whose sides each make a call that does the work, or its other side.

    check: ends the program where what a call gives, of a side of this name, is not the whole work. times: calls of a
    turn. work: as `measure` takes it.
    """
    side = theirs if arguments.serve else ours
    call = side()
    check(call(), side.__name__)

    def turn() -> float:
        start = time.perf_counter()
        for _ in range(times):
            call()
        return time.perf_counter() - start

    if arguments.serve:
        serve(lambda _: turn())
    else:
        measure(turn, name, arguments.torch_python, arguments.rounds, **work)


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
