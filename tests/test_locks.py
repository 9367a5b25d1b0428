"""Locks, on file systems with and without `flock`."""

import errno
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from research import locks
from research.errors import UserError
from research.locks import check_held, holder, locked, try_lock
from research.reports.records import state_of
from research.training.folders import Held
from research.training.loggers import read_metrics
from tests.lock_races import PROCESSES, ROUNDS, TURNS, without_flock

ROOT = Path(__file__).resolve().parent.parent
BEAT, STALE = 0.2, 1.5
SHORT = f"from research import locks; locks.BEAT_SECONDS, locks.STALE_SECONDS = {BEAT}, {STALE}\n"
NONE = "import fcntl; from tests.lock_races import without_flock; fcntl.flock = without_flock\n"
HOLD = "import sys; from pathlib import Path; lock = locks.try_lock(Path(sys.argv[1])); print(lock.lost, flush=True)\n"
KINDS = ["flock", "lease"]


@pytest.fixture(params=KINDS)
def how(request, monkeypatch):
    """With `flock` and without, both with a short life."""
    monkeypatch.setattr(locks, "BEAT_SECONDS", BEAT)
    monkeypatch.setattr(locks, "STALE_SECONDS", STALE)
    if request.param == "lease":
        monkeypatch.setattr(fcntl, "flock", without_flock)
    return request.param


@pytest.fixture
def held():
    """`held(path, how)`: a process that holds the lock, and says on each line it gets whether it has lost it."""
    processes = []

    def hold(path: Path, how: str) -> subprocess.Popen:
        code = SHORT + NONE * (how == "lease") + HOLD + "for _ in sys.stdin: print(lock.lost, flush=True)\n"
        command = [sys.executable, "-c", code, str(path)]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "False\n"
        return process

    yield hold
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def test_a_lock_is_held_by_one_and_given_back(how, tmp_path):
    path = tmp_path / ".lock"
    assert holder(path) is None and not path.exists()
    for _ in range(3):
        with try_lock(path) as lock:
            assert try_lock(path) is None and not lock.lost
            assert holder(path) == f"process {os.getpid()} on {os.uname().nodename}"
        assert holder(path) is None
    with pytest.raises(ZeroDivisionError), locked(path):
        raise ZeroDivisionError
    lock.release()
    assert len(list(tmp_path.iterdir())) == (1 if how == "flock" else 2)


def test_of_many_that_ask_at_once_exactly_one_gets_it(tmp_path):
    for how in KINDS:
        (folder := tmp_path / how).mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "tests.lock_races", how, str(folder)], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told == {"won": list(range(ROUNDS)), "counter": PROCESSES * TURNS}, how


def test_a_living_holder_keeps_it_and_a_killed_one_loses_it(how, held, tmp_path):
    path = tmp_path / ".lock"
    process = held(path, how)
    words = f"process {process.pid} on {os.uname().nodename}"
    began = time.monotonic()
    while time.monotonic() < began + 2 * STALE:
        assert try_lock(path) is None and holder(path) == words
        time.sleep(0.02)
    began = time.monotonic()
    assert try_lock(path, patient=True) is None and time.monotonic() - began < STALE
    process.kill()
    process.wait()
    killed = time.monotonic()
    if how == "flock":
        assert holder(path) is None
        try_lock(path).release()
        assert time.monotonic() - killed < STALE / 2
        return
    assert try_lock(path) is None and holder(path) == words
    try_lock(path, patient=True).release()  # waits
    assert STALE - 2 * BEAT < time.monotonic() - killed < STALE + 2


def test_who_slept_too_long_notices_that_it_has_lost_its_lock(held, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "STALE_SECONDS", STALE)
    path = tmp_path / ".lock"
    process = held(path, "lease")
    process.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(fcntl, "flock", without_flock)
    lock = wait_for(lambda: try_lock(path))
    process.send_signal(signal.SIGCONT)
    process.stdin.write("?\n")
    process.stdin.flush()
    assert process.stdout.readline() == "True\n" and not lock.lost
    process.kill()
    assert holder(path) == f"process {os.getpid()} on {os.uname().nodename}"
    lock.release()


def test_nothing_is_saved_once_another_process_has_the_folder(how, tmp_path):
    lock, folders = try_lock(tmp_path / ".lock"), Held(tmp_path)
    check_held(tmp_path)
    folders.check()
    other = tmp_path / (".lock" if how == "flock" else ".lock.2")  # as another machine takes over
    other.write_text("process 5 on node7\n")
    with pytest.raises(UserError, match=r"was taken over \(process 5 on node7\) while this process stood still for"):
        folders.check()
    lock.release()
    assert other.read_text() == "process 5 on node7\n" and try_lock(tmp_path / ".lock") is None
    folders.check()
    folders.close()


def test_who_comes_late_does_not_take_what_others_have_taken_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", without_flock)
    path = tmp_path / ".lock"
    try_lock(path).release()  # lease 1, over, as a process sees that sleeps before it makes lease 2
    try_lock(path).release()
    with try_lock(path) as lock:
        assert locks._lease(path, 2) is None and not lock.lost
        assert sorted(entry.name for entry in tmp_path.iterdir()) == [".lock", ".lock.3"]
    assert locks._lease(path, 3) is None


def test_the_clock_is_that_of_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", without_flock)
    with try_lock(tmp_path / ".lock"):
        now = time.time
        for wrong in (3600, -3600):
            monkeypatch.setattr(time, "time", lambda wrong=wrong: now() + wrong)
            assert try_lock(tmp_path / ".lock") is None


def test_machines_with_and_without_flock_respect_each_other(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", without_flock)
        lease = try_lock(tmp_path / "a")
    monkeypatch.setattr(locks, "_machine", lambda: "another")
    assert try_lock(tmp_path / "a") is None and holder(tmp_path / "a")
    lock = try_lock(tmp_path / "b")
    monkeypatch.undo()
    monkeypatch.setattr(fcntl, "flock", without_flock)
    assert try_lock(tmp_path / "b") is None and holder(tmp_path / "b")
    lease.release()
    lock.release()


def test_asking_who_holds_a_lock_keeps_nobody_from_taking_it(tmp_path):
    path = tmp_path / ".lock"
    path.touch()
    code = "import sys; from pathlib import Path; from research.locks import holder\nprint('ready', flush=True)\n"
    command = [sys.executable, "-c", code + "while True: holder(Path(sys.argv[1]))", str(path)]
    asking = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        assert [process.stdout.readline() for process in asking] == ["ready\n"] * 2
        for _ in range(300):
            try_lock(path).release()
    finally:
        for process in asking:
            process.kill()
            process.communicate()


def make_pipe(path):
    os.mkfifo(path)


def make_link(path):
    path.with_name("precious").write_text("kept")
    path.symlink_to("precious")


@pytest.mark.parametrize("make", [make_pipe, make_link, Path.mkdir])
def test_only_files_are_locked(make, how, tmp_path):
    for name in ("a", "b.1" if how == "lease" else "b"):  # the lock file, or a lease
        make(tmp_path / name)
        assert holder(tmp_path / name[0]) is None
        with pytest.raises(UserError, match="is not a file: move it away"):
            try_lock(tmp_path / name[0])
        (tmp_path / "precious").unlink(missing_ok=True)
    assert not locks._ours


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_what_the_disk_refuses_is_told_with_its_cause(code, how, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    opened = os.open
    path, reason = tmp_path / ".lock", os.strerror(code)

    def refuse_to_make(path, flags, *rest):
        return refuse() if flags & os.O_CREAT else opened(path, flags, *rest)

    for name, wrong in (("open", refuse_to_make), ("pwrite", refuse)):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, wrong)
            with pytest.raises(UserError) as told:
                try_lock(path)
        assert str(told.value) == (
            f"{path} cannot be written ({reason}): see to its disk and permissions, or use another folder"
        )
    assert not locks._ours
    with try_lock(path):  # and nothing is left held
        assert holder(path)


def test_another_error_of_flock_is_told(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", fails)
    with pytest.raises(UserError, match=r"\.lock cannot be written \(Input/output error\): see to"):
        try_lock(tmp_path / ".lock")
    assert holder(tmp_path / ".lock") is None


def test_a_holder_is_known_in_a_folder_that_may_only_be_read(how, tmp_path):
    """Also where the files are another user's: root, who may run the tests, becomes one for the question."""
    folder = tmp_path / "run"
    folder.mkdir()
    with try_lock(folder / ".lock"):
        for parent in (tmp_path, *list(tmp_path.parents)[:3]):
            if parent.stat().st_uid == os.getuid() and parent != Path("/tmp"):
                parent.chmod(stat.S_IMODE(parent.stat().st_mode) | 0o055)
        before = sorted(folder.iterdir())
        folder.chmod(0o555)
        if root := os.getuid() == 0:
            os.seteuid(65534)
        try:
            assert state_of(folder) == "running"
            with pytest.raises(UserError, match="cannot be written"):
                try_lock(folder / "new")
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o755)
        assert sorted(folder.iterdir()) == before
    assert state_of(folder) == "stopped"


def test_a_lock_file_with_anything_in_it_is_taken(tmp_path):
    for text in (b"", b"\xff\x00\x1b[31m" * 1000, b"\n\n"):
        path = tmp_path / ".lock"
        path.write_bytes(text)
        assert (holder(path) or "").isprintable()
        os.utime(path, (0, 0))
        try_lock(path).release()


def test_a_child_waits_for_the_run_of_its_trial_where_there_is_no_flock(held, tmp_path):
    """It ends before the command that takes its place, and can hold no lease for it."""
    (tmp_path / "0001").mkdir()
    before = held(tmp_path / "0001/.lock", "lease")
    code = SHORT + NONE + "import os; from research.sweeps.child import become\n"
    code += "become(os.getppid(), os.sched_getaffinity(0), sys.argv[1], ['echo', 'on'])"
    log = tmp_path / "0001.log"
    child = subprocess.Popen([sys.executable, "-c", "import sys\n" + code, str(log)], cwd=ROOT)
    wait_for(log.exists)
    time.sleep(STALE)
    assert child.poll() is None and log.read_text() == ""
    before.kill()
    assert child.wait(20) == 0 and log.read_text() == "on\n"


def test_a_run_without_flock_is_kept_alone_and_resumed(run, tmp_path):
    patched, folder = tmp_path / "patched", tmp_path / "run"
    patched.mkdir()
    (patched / "sitecustomize.py").write_text(SHORT.replace(f"{STALE}", "6") + NONE)
    environment = {"PYTHONPATH": f"{patched}:{ROOT}"}
    arguments = [
        *("--config=configs/vision/digits.py:tiny", f"--workdir={folder}", "--config.training.duration.steps=100000"),
        *("--config.training.log_every=5", "--config.checkpoint.every.steps=10"),
    ]

    def start():
        command = [sys.executable, "-m", "experiments.train", *arguments]
        return subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stderr=subprocess.PIPE, text=True)

    def saved():
        return any(path.name.isdecimal() for path in (folder / "checkpoints").glob("*"))

    def logged():
        return (read_metrics(folder / "metrics.jsonl") or [{"step": 0}])[-1]["step"]

    process = start()
    try:
        assert wait_for(saved, 120) and state_of(folder) == "running"
        second = run("train", *arguments, **environment)
        assert second.code == 2 and second.stderr.splitlines()[-1] == (
            f"error: {folder} is being written by another process (process {process.pid} on {os.uname().nodename}): "
            "wait for it to end, stop it, or use another --workdir"
        )
        process.kill()
        process.communicate()
        before = logged()
        process = start()
        assert wait_for(lambda: logged() > before, 120)  # row after row, from where it was saved
        process.terminate()
        assert process.communicate(timeout=60)[1].splitlines()[-1].startswith("stopped by SIGTERM at step ")
        assert process.returncode == 75 and state_of(folder) == "stopped"
    finally:
        process.kill()
        process.communicate()
