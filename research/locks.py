"""Locks between processes, also on file systems that have none.

A lock is a file with `flock`, which the system takes back when the process ends, however it ends. Where the file system
lacks that (Lustre and NFS as they are often mounted, many FUSE file systems), the holder has a lease instead, a file
beside the lock file: `.lock.7` after `.lock.6`. Each number is given once, so that two processes never take the same.

Either file tells who holds it, and its time of change is the holder's last beat: a lease that is silent for longer than
`STALE_SECONDS` is over. So is a lock of another machine, whose `flock` may not reach this one.
"""

import contextlib
import errno
import fcntl
import functools
import os
import platform
import random
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from research.errors import UserError

BEAT_SECONDS, STALE_SECONDS = 10, 30
"""How often a holder shows that it lives, and when others take it as dead."""

_MISSING = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
_HELD = (errno.EWOULDBLOCK, errno.EACCES)
_LARGEST = 1000  # bytes of what a holder writes


class Lock:
    """A lock that this process holds until `release`, or to the end of a `with`."""

    def __init__(self, path: Path, place: Path, file: int, number: int):
        """place, file: where the beats go, the lock file or a lease; number: of the newest lease."""
        self.path, self._place, self._file, self._number = path.absolute(), place.absolute(), file, number
        self._text = f"process {os.getpid()} on {platform.node()}\n{_machine()} {uuid.uuid4().hex}\n"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        os.ftruncate(file, 0)
        os.pwrite(file, self._text.encode(), 0)

    def start(self) -> "Lock":
        """Begins to beat."""
        self._thread.start()
        _ours.append(self)
        return self

    @property
    def lost(self) -> bool:
        """Whether another process has taken it over, because this one stood still for longer than STALE_SECONDS."""
        with contextlib.suppress(OSError, UserError):  # a folder that is gone has no new holder either
            if _newest(self.path)[0] != self._number:
                return True
            with _opened(self._place) as file:
                return _read(file)[0] != self._text
        return False

    def release(self) -> None:
        """Lets others take it."""
        if self._stop():
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0) if self._place == self.path else os.utime(self._file, (0, 0))
            os.close(self._file)

    def leave(self) -> None:
        """Leaves it to another machine, which took it at the same moment: nobody else gets it before that is silent."""
        if self._stop():
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
                os.pwrite(self._file, b"another machine", 0)
            os.close(self._file)

    def _stop(self) -> bool:
        """Ends the beat; whether there is a lock to give back."""
        if self._ended.is_set():
            return False
        self._ended.set()
        self._thread.join()
        _ours.remove(self)
        if self.lost:
            os.close(self._file)
            return False
        return True

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self._file)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *error: Any) -> None:
        self.release()


_ours: list[Lock] = []
"""What this process holds."""


def try_lock(path: Path, *, patient: bool = False) -> Lock | None:
    """The lock of the file `path`, which is made where it is missing; None where another process holds it.

    patient: waits, for STALE_SECONDS at most, until a holder whose end the system does not tell has shown by a beat or
    by silence whether it lives. Raises UserError where no lock can be made there.
    """
    last = None
    while True:
        try:
            found = _take(path)
        except OSError as error:
            raise UserError(
                f"{path} cannot be written ({error.strerror}): see to its disk and permissions, or use another folder"
            ) from error
        if isinstance(found, Lock):
            return found
        if not patient or found is None or last not in (None, found):
            return None
        last = found
        time.sleep(BEAT_SECONDS / 20)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[Lock]:
    """Waits for the lock and holds it. Raises UserError as `try_lock` does."""
    while (lock := try_lock(path)) is None:
        time.sleep(0.02)
    with lock:
        yield lock


def holder(path: Path) -> str | None:
    """Who holds the lock, in words; None where nobody does or nobody can tell. Nothing is written, nor taken.

    Without a file to write there is only this machine's clock to tell whether a lease is over.
    """
    with contextlib.suppress(OSError, UserError), _opened(path) as file:
        flocked = flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        other = (_read(file)[0], 0.0) if flocked is False else _other(path, file, flocked, time.time)
        if other:
            line = other[0].partition("\n")[0]
            return "".join(character for character in line if character.isprintable())[:100] or "just started"
    return None


def check_held(folder: Path) -> None:
    """Raises UserError where this process has lost a lock in the folder."""
    for lock in list(_ours):
        if lock.path.parent == folder.absolute() and lock.lost:
            raise UserError(
                f"{folder} was taken over ({holder(lock.path) or 'by another process'}) while this process stood still "
                f"for more than {STALE_SECONDS} seconds, so that nothing more is saved: leave it to the other one, or "
                "stop that and run the command again"
            )


def flock(file: int, how: int = fcntl.LOCK_EX) -> bool | None:
    """`fcntl.flock`: True where it has worked, False where another holds the lock, None on a file system without."""
    try:
        fcntl.flock(file, how)
    except OSError as error:
        if error.errno in _MISSING:
            return None
        if error.errno in _HELD:
            return False
        raise
    return True


def _take(path: Path) -> Lock | float | None:
    """The lock; or the last beat of a holder that may be dead; or None for one that lives."""
    with contextlib.ExitStack() as stack:
        file = _open(path, os.O_RDWR | os.O_CREAT)
        stack.callback(os.close, file)
        flocked = _exclusive(file)
        if flocked is False:
            return None
        number, *_ = _newest(path)
        if other := _other(path, file, flocked, functools.partial(_clock, path)):
            return other[1]
        if flocked:
            lock = Lock(path, path, file, number)
            stack.pop_all()  # it stays open
            return lock.start()
    return _lease(path, number + 1)


def _exclusive(file: int) -> bool | None:
    """`flock` that is not put off by `holder`, which looks for a moment."""
    for _ in range(100):
        flocked = flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if flocked is not False or not flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB):
            return flocked
        flock(file, fcntl.LOCK_UN)
        time.sleep(random.random() / 100)
    return False


def _lease(path: Path, number: int) -> Lock | None:
    """The lease of this number, unless another process was faster.

    A process that has long slept may make a number that was made and deleted before: there is a newer one then, since
    the newest is never deleted.
    """
    place = path.with_name(f"{path.name}.{number}")
    try:
        file = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return None
    try:
        lock = Lock(path, place, file, number)
        newest, numbers = _newest(path)
    except OSError:
        os.utime(file, (0, 0))
        os.close(file)
        raise
    if newest != number:
        os.close(file)
        place.unlink(missing_ok=True)
        return None
    for old in numbers:
        if old < number:
            path.with_name(f"{path.name}.{old}").unlink(missing_ok=True)
    return lock.start()


def _newest(path: Path) -> tuple[int, list[int]]:
    """The number of the newest lease, 0 where there is none, and those of all that are there."""
    ends = (name.removeprefix(f"{path.name}.") for name in os.listdir(path.parent) if name.startswith(f"{path.name}."))
    numbers = [int(end) for end in ends if end.isascii() and end.isdecimal() and len(end) < 19]
    return max(numbers, default=0), numbers


def _other(path: Path, file: int, flocked: bool | None, now: Callable[[], float]) -> tuple[str, float] | None:
    """What a holder wrote and when it last beat, where it may live.

    Where `flock` has worked, a holder of this machine that wrote into the lock file is dead.
    """
    text, beat = _read(file)
    dead = not text or (flocked and text.partition("\n")[2].startswith(_machine()))
    signs = [] if dead else [(text, beat)]
    if number := _newest(path)[0]:
        try:
            with _opened(path.with_name(f"{path.name}.{number}")) as lease:
                signs.append(_read(lease))
        except FileNotFoundError:  # there is a newer one by now
            return _other(path, file, flocked, now)
    return next((sign for sign in signs if abs(now() - sign[1]) < STALE_SECONDS), None)


def _clock(path: Path) -> float:
    """The time of the disk, which may not be that of this machine."""
    new = path.with_name(f"{path.name}.clock-{uuid.uuid4().hex}")
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        return os.fstat(file).st_mtime
    finally:
        os.close(file)
        new.unlink()


def _open(path: Path, flags: int) -> int:
    """The descriptor of a regular file. Raises UserError for anything else: a pipe never opens, a link leads away."""
    wrong = UserError(f"{path} is not a file: move it away and run the command again")
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise wrong
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(file).st_mode):  # it has come in the meantime
        os.close(file)
        raise wrong
    return file


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    file = _open(path, os.O_RDONLY)
    try:
        yield file
    finally:
        os.close(file)


def _read(file: int) -> tuple[str, float]:
    """What the holder has written, and its last beat."""
    return os.pread(file, _LARGEST, 0).decode(errors="replace"), os.fstat(file).st_mtime


@functools.cache
def _machine() -> str:
    """A name for all processes that share this machine's locks, those in containers included."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node() or "this machine"
