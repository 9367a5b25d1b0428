"""Processes that want the same locks at once: `python -m tests.lock_races flock|lease FOLDER`; it prints what happened.

Between looking and taking each sleeps for a moment, so that they meet in every order.
"""

import errno
import fcntl
import json
import multiprocessing
import os
import random
import sys
import time
from pathlib import Path

from research import locks

PROCESSES, ROUNDS, TURNS = 4, 200, 25


def without_flock(*_: object) -> None:
    """What `fcntl.flock` does on a file system that has none."""
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def hesitate() -> None:
    """Makes the window between looking and taking wide."""
    newest = locks._newest

    def slow(path: Path) -> tuple[int, list[int]]:
        found = newest(path)
        time.sleep(random.random() / 500)
        return found

    locks._newest = slow


def compete(folder: Path, barrier: multiprocessing.Barrier, wins: multiprocessing.Queue) -> None:
    """One try in each round, then some turns with a counter that every process reads, keeps in mind, and writes."""
    hesitate()
    for number in range(ROUNDS):
        barrier.wait()
        lock = locks.try_lock(folder / f"{number}.lock")
        barrier.wait()
        if lock:
            wins.put(number)
            lock.release()
    counter = folder / "counter"
    for _ in range(TURNS):
        with locks.locked(folder / "turns.lock"):
            value = int(counter.read_text())
            time.sleep(0.001)
            counter.write_text(str(value + 1))


def main(how: str, folder: Path) -> None:
    """Half of the locks were held by a process that is dead."""
    if how == "lease":
        fcntl.flock = without_flock
    for number in range(0, ROUNDS, 2):
        dead = folder / (f"{number}.lock.7" if how == "lease" else f"{number}.lock")
        dead.write_text("process 1 on another machine")
        os.utime(dead, (time.time() - 31,) * 2)
    (folder / "counter").write_text("0")
    context = multiprocessing.get_context("fork")
    barrier, wins = context.Barrier(PROCESSES), context.Queue()
    processes = [context.Process(target=compete, args=(folder, barrier, wins)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    won = []
    while any(process.is_alive() for process in processes) or not wins.empty():
        while not wins.empty():
            won.append(wins.get())
        time.sleep(0.01)
    print(json.dumps({"won": sorted(won), "counter": int((folder / "counter").read_text())}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
