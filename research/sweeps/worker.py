"""Works on a study: takes trials, runs each as an ordinary run in its own process, follows it and books its end."""

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from research.errors import UserError, one_line
from research.files import Unreadable, inside, read_json
from research.sweeps.launchers import Handle, Launcher
from research.sweeps.study import CELL, Study, Trial
from research.training.interruptions import RESTART, Interrupted
from research.training.loggers import number, read_metrics

TRAIN = (sys.executable, "-m", "experiments.train")
POLL_SECONDS = 0.2
RETRIES = 2
USER_ERROR = 2
"""Exit code of a command that would fail again."""


def work(study: Study, launcher: Launcher, say: Callable[[Trial], None], program: Sequence[str] = TRAIN) -> None:
    """Runs trials in all of the launcher's slots until none is left to take; `say` hears of each that has ended.

    Raises UserError where no trial could ever succeed, and Interrupted after a signal, once all trials are saved.
    """
    stop = threading.Event()

    def fill(slot: int) -> None:
        try:
            while not stop.is_set() and (trial := study.claim()):
                try:
                    _Follower(study, trial, stop).run(lambda: launcher.start(_command(trial, program), trial.log, slot))
                finally:
                    trial.release()
                if not stop.is_set():
                    say(trial)
        except BaseException:
            stop.set()
            raise

    unfinished = sum(not trial.state.is_finished() for trial in study.trials())
    with _signals(stop) as received, ThreadPoolExecutor(launcher.slots) as pool:
        slots = {pool.submit(fill, slot) for slot in range(min(launcher.slots, unfinished))}
        while slots:
            done, slots = wait(slots, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            for slot in done:
                slot.result()
    if received:
        finished = sum(trial.state.is_finished() for trial in study.trials())
        total = len(study.trials())
        raise Interrupted(
            f"stopped by {received[0]}: {finished} of {total} trials are finished: the same command resumes"
        )


def _command(trial: Trial, program: Sequence[str]) -> list[str]:
    changes = [f"--config.{path}={value}" for path, value in trial.overrides.items()]
    return [*program, f"--config={trial.spec}", f"--workdir={trial.folder}", *changes]


@contextmanager
def _signals(stop: threading.Event) -> Iterator[list[str]]:
    """SIGTERM and SIGINT set `stop`, their names are in the list; what batch systems warn their own jobs with does not
    end this process and its trials."""
    received: list[str] = []

    def receive(number: int, frame: object) -> None:
        received.append(signal.Signals(number).name)
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, receive) for number in (signal.SIGTERM, signal.SIGINT)}
    before |= {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Follower:
    """One trial from its start to its end."""

    def __init__(self, study: Study, trial: Trial, stop: threading.Event):
        self.objective, self.prunes = study.plan.objective, study.plan.pruner != "none"
        self.trial, self.stop = trial, stop
        self.seen: int | None = None
        self.given_up = math.inf

    def run(self, start: Callable[[], Handle]) -> None:
        trial = self.trial
        while True:
            began, handle = time.monotonic(), start()
            try:
                code, pruned = self._follow(handle)
            except BaseException:
                handle.stop()
                raise
            trial.note(seconds=trial.notes.get("seconds", 0.0) + time.monotonic() - began)
            if code == 0:
                return self._complete()
            if pruned:
                return trial.prune()
            if self.stop.is_set():
                return trial.release()
            if code != RESTART:
                failures = trial.notes.get("failures", 0) + 1
                trial.note(failures=failures)
                if code == USER_ERROR or failures > RETRIES:
                    return trial.fail(ending(code, trial.log))
            self.stop.wait(1)  # nothing is gained by starting again within the second

    def _follow(self, handle: Handle) -> tuple[int, bool]:
        """The exit code, and whether the pruner gave the trial up."""
        while (code := handle.poll()) is None:
            if self._report():
                return handle.stop(), True
            if self.stop.wait(POLL_SECONDS):
                return handle.stop(), False
        self._report()
        return code, False

    def _report(self) -> bool:
        """Reports what was validated since the last call; True where the pruner gave the trial up and it has continued.

        One that is given up at its last validation is about to be complete.
        """
        path = self.trial.folder / "metrics.jsonl"
        size = path.stat().st_size if path.exists() else None
        if size == self.seen or not inside(path, self.trial.folder):
            return False
        self.seen = size
        logged = read_metrics(path)
        rows = [row for row in logged if any(name.startswith("validation/") for name in row)]
        if rows and self.objective not in rows[0]:
            if self.prunes and self.objective.startswith("validation/"):
                names = ", ".join(name for name in rows[0] if name.startswith("validation/"))
                raise UserError(f"{self.objective} is not measured during training: prune by one of {names}")
            return False
        for evaluation, row in enumerate(rows, 1):
            value = number(row.get(self.objective))
            if value is not None and self.trial.report(evaluation, value):
                self.given_up = min(self.given_up, row["step"])
        return bool(logged) and logged[-1]["step"] > self.given_up

    def _complete(self) -> None:
        path = self.trial.folder / "results.json"
        if not inside(path, self.trial.folder):
            return self.trial.fail(f"{path} leads out of the trial's folder")
        try:
            self.trial.book(read_json(path, dict[str, float]))
        except Unreadable as error:
            self.trial.fail(str(error))


def ending(code: int, log: Path) -> str:
    """How a trial ended, in one short line: the signal, if it was one, and the last words of its log."""
    return ": ".join(filter(None, [killed_by(code), last_words(log)])) or f"exit code {code}"


def killed_by(code: int) -> str:
    """The signal that a process ended by, "" where it was none. code: as Python or as a shell has it."""
    try:
        return f"ended by {signal.Signals(-code if code < 0 else code - 128).name}"
    except ValueError:
        return ""


def last_words(log: Path) -> str:
    """The last line of a log that says something, as `one_line`; of a large log only the end is read."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - 2**16, 0))
        lines = file.read(2**16).decode("utf-8", "replace").split("\n")
    return next((line for line in (one_line(line, CELL) for line in reversed(lines)) if line), "")
