"""Becomes a trial: `python -m research.sweeps.child PARENT CORES LOG COMMAND...`.

It dies with the process PARENT, runs on CORES ("0,1"), appends what it prints to LOG, and starts only once no other
process runs this trial any more.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from research.locks import flock, holder

PR_SET_PDEATHSIG = 1  # in linux/prctl.h


def become(parent: int, cores: set[int], log: str, command: list[str]) -> None:
    """Replaces this process by the command."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.sched_setaffinity(0, cores)
    lock = os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    os.set_inheritable(lock, True)  # held until the command ends
    if flock(lock) is None:  # a lease would not outlive what follows: that of the run's own folder has to do
        while holder(Path(log).with_suffix("") / ".lock"):
            time.sleep(1)
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if os.getppid() == parent:  # it has not died before it could be watched
        os.execvp(command[0], command)


if __name__ == "__main__":
    become(int(sys.argv[1]), {int(core) for core in sys.argv[2].split(",")}, sys.argv[3], sys.argv[4:])
