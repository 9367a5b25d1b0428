"""Signals that end a run: they are remembered until the step at hand is saved."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils

RESTART = os.EX_TEMPFAIL
"""Exit code of a command that was stopped and that the same command line resumes (75, as schedulers know it)."""


class Interrupted(KeyboardInterrupt):
    """A signal ended the run; the message is one sentence."""


class Interruptions:
    """Within it SIGTERM and SIGINT raise Interrupted; within `deferred` the first one is only remembered.

    One of several processes leaves SIGTERM to JAX, which tells all of them and finds the step to stop at; a SIGINT
    becomes a SIGTERM there. Ignored signals stay ignored, and outside Python's main thread all stay as they are.

    What is raised may be lost, such as in a callback of the garbage collector or in a library that catches everything
    while it is imported: `deferred` raises it again.
    """

    def __init__(self):
        self.name = "SIGTERM"
        self._deferred = self._received = self._raised = False
        self._many = jax.process_count() > 1
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruptions":
        handled = [signal.SIGINT] if self._many else [signal.SIGINT, signal.SIGTERM]
        wanted = [number for number in handled if signal.getsignal(number) is not signal.SIG_IGN]
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in wanted}
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: it was not installed by Python
        self._before = {}

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Leaves it to the caller to ask whether to stop."""
        around = [getattr(handler, "__self__", None) for handler in self._before.values()]
        for one in (self, *around):
            if isinstance(one, Interruptions) and one._raised:
                raise one._interrupted()
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        if self._received or not self._deferred:
            self._raised = True
            raise self._interrupted()
        self._received = True
        # print() may be what the signal has interrupted
        os.write(2, f"{self.name}: the run stops once this step is saved, a second one ends it at once\n".encode())
        if self._many:
            signal.raise_signal(signal.SIGTERM)

    def _interrupted(self) -> Interrupted:
        return Interrupted(f"stopped by {self.name}: the same command resumes from what was saved")

    def reached(self, step: int) -> bool:
        """Whether to save now and stop; all processes have to ask after every step, and get the same answer."""
        return multihost_utils.reached_preemption_sync_point(step) if self._many else self._received
