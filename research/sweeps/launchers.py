"""Where trials run. A launcher starts a command in one of its slots and gives a handle to it; this one runs it here."""

import dataclasses
import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from research.errors import UserError

MOST_WORKERS = 1000
"""Slots of a command: each has a thread of its own."""

GRACE_SECONDS = 120
"""What a trial has to save itself when it is stopped."""


class Handle(Protocol):
    """A started trial."""

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""

    def stop(self) -> int:
        """Asks it to save itself and end, waits for that, and returns its exit code."""


class Launcher(Protocol):
    """A number of slots, in each of which one trial runs at a time."""

    slots: int

    def start(self, command: Sequence[str], log: Path, slot: int) -> Handle:
        """Starts the command, whose output is appended to `log`."""


class Process:
    """A trial as a child of this process, with which it dies."""

    def __init__(self, command: Sequence[str], log: Path, allowed: Sequence[int], environment: Mapping[str, str]):
        child = [sys.executable, "-m", "research.sweeps.child", os.getpid(), ",".join(map(str, allowed)), log]
        self._process = subprocess.Popen(
            [*map(str, child), *command],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches this process alone, which stops its children
        )

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._process.poll()

    def stop(self) -> int:
        """Asks it to save itself and end, and ends it if that takes too long."""
        self._process.terminate()
        try:
            return self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


@dataclasses.dataclass
class LocalLauncher:
    """Slots on this machine, with a share of its cores and accelerators each. 0: one for each accelerator, or 1.

    Raises UserError for more slots than there are accelerators, if there are any.
    """

    slots: int

    def __post_init__(self):
        _, devices = accelerators()
        self.slots = self.slots or max(len(devices), 1)
        if not 1 <= self.slots <= MOST_WORKERS:
            raise UserError(f"--workers={self.slots} is out of range: use 1 to {MOST_WORKERS:,}")
        if devices and self.slots > len(devices):
            raise UserError(
                f"--workers={self.slots} needs as many accelerators, and here are {len(devices)}: use fewer"
            )

    def start(self, command: Sequence[str], log: Path, slot: int) -> Process:
        """Starts the command with what belongs to the slot."""
        variable, devices = accelerators()
        mine = share(devices, slot, self.slots) if devices else []
        environment = {variable: ",".join(mine)} if devices else {}
        if variable == "TPU_VISIBLE_CHIPS" and len(mine) == 1:
            environment |= {"TPU_PROCESS_BOUNDS": "1,1,1", "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1"}
        return Process(command, log, share(cores(), slot, self.slots), environment)


def cores() -> list[int]:
    """The cores that this process may use: XLA makes a thread for each, and so do the trials for theirs."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def share[T](things: Sequence[T], slot: int, slots: int) -> Sequence[T]:
    """A slot's part of cores or accelerators; one that it shares with others where there are more slots."""
    if slots >= len(things):
        return [things[slot % len(things)]]
    return things[slot * len(things) // slots : (slot + 1) * len(things) // slots]


@functools.cache
def accelerators() -> tuple[str, list[str]]:
    """The variable that chooses accelerators, and their names in it; [] without any.

    Looks at devices and variables only: asking JAX would take the accelerators for this process.
    """
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return "", []
    if any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        return _visible("CUDA_VISIBLE_DEVICES", Path("/dev").glob("nvidia[0-9]*"))
    if importlib.util.find_spec("libtpu"):
        return _visible("TPU_VISIBLE_CHIPS", [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")])
    return "", []


def _visible(variable: str, devices: Iterable[Path]) -> tuple[str, list[str]]:
    numbers = [str(number) for number, _ in enumerate(devices)]
    given = os.environ.get(variable)
    return variable, numbers if given is None else [name for name in given.split(",") if name]
