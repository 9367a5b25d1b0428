"""How the C library holds the memory of programs on a CPU, which XLA asks for anew at every step.

Left alone, glibc gives large blocks back to the kernel, which has to clear every page of them again. Both functions do
nothing where there is another C library.
"""

import contextlib
import ctypes
import os
import sys
from pathlib import Path

TUNABLES = "GLIBC_TUNABLES"
LARGE_PAGES = "glibc.malloc.hugetlb=1"
STARTED = ("-m", "heed")
"""What a command's first argument is while Python looks for its module, or runs the installed one."""


def restart_with_large_pages() -> None:
    """Starts a command's process again, in its place, with pages of 2 MiB where the kernel has them on request.

    glibc reads the setting at its start alone. Blocks of over 64 MiB are always new, in any thread but the first,
    whatever `keep_memory` says: with pages of 4 KiB clearing them took a third of the time of a training step. Nothing
    happens where the environment sets other tunables, or where this is not a command's own process.
    """
    if sys.platform == "linux" and Path(sys.argv[0]).name in STARTED and TUNABLES not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, TUNABLES: LARGE_PAGES})


def keep_memory() -> None:
    """Makes glibc keep freed memory in place of giving it back."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mmap_max, trim_threshold, arena_max = -4, -1, -8  # names in malloc.h
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)
        mallopt(arena_max, max(4, os.cpu_count() or 1))  # in one alone, threads that tokenize wait for each other
