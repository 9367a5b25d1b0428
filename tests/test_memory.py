"""Commands start anew with large pages, once; nothing else does."""

import os
import subprocess
import sys

import pytest

from research.memory import LARGE_PAGES, TUNABLES

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="glibc is not the C library")
PROGRAM = "import os, sys\nprint(os.getpid(), os.environ.get('GLIBC_TUNABLES'), sys.argv[1:], sys.flags.optimize)"


def start(folder, *command, **environment):
    without = {name: value for name, value in os.environ.items() if name != TUNABLES}
    process = subprocess.Popen(
        [sys.executable, "-O", *command], cwd=folder, env=without | environment, stdout=subprocess.PIPE, text=True
    )
    return process.pid, process.communicate(timeout=60)[0].split(maxsplit=2)


@LINUX
@pytest.mark.parametrize(
    ("command", "environment", "tunables"),
    [
        (("-m", "package.command", "a b"), {}, LARGE_PAGES),
        (("-m", "package.command", "a b"), {TUNABLES: "glibc.malloc.check=0"}, "glibc.malloc.check=0"),
        (("heed", "a b"), {}, LARGE_PAGES),
        (("other", "a b"), {}, "None"),
    ],
)
def test_a_command_starts_again_in_its_own_process(tmp_path, command, environment, tunables):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("from research.memory import restart_with_large_pages as f\nf()\n")
    (package / "command.py").write_text(PROGRAM)
    for name in ("heed", "other"):
        (tmp_path / name).write_text("import package.command")
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    pid, found = start(tmp_path, *command, PYTHONPATH=f"{root}:{tmp_path}", **environment)
    assert found == [str(pid), tunables, "['a b'] 1\n"]


@LINUX
def test_large_blocks_come_in_large_pages(tmp_path):
    """Of 256 MiB that a thread writes to, nearly all is in pages of 2 MiB, where the kernel has them on request."""
    with open("/sys/kernel/mm/transparent_hugepage/enabled") as file:
        if "[never]" in file.read():
            pytest.skip("the kernel has no large pages")
    program = (
        "import threading, re\n"
        "def work():\n"
        "    block = b'1' * 2**28\n"
        "    print(sum(map(int, re.findall(r'AnonHugePages: +(\\d+)', open('/proc/self/smaps').read()))), '', '')\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()\n"
    )
    _, (kibibytes, *_) = start(tmp_path, "-c", program, GLIBC_TUNABLES=LARGE_PAGES)
    assert int(kibibytes) > 200 * 1024
