"""Runs commands as their own processes without their start: forked from one that has imported everything.

Importing JAX and the project takes three seconds, more than a tiny run itself. A request is a line of JSON on standard
input (module, arguments, environment, folder, files for the output); the answer is the exit code, as subprocess has it.
"""

import ast
import gc
import importlib
import json
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path

LIMIT = 600
"""Seconds until a command is ended by a signal."""
ROOT = Path(__file__).resolve().parent.parent


def imported_by_commands() -> set[str]:
    """The modules that the files of experiments/ import at their top."""
    names = set()
    for path in (ROOT / "experiments").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("experiments"):
                names.add(node.module)
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
    return names


def run(module: str, arguments: list[str], environment: dict[str, str], folder: str, out: str, err: str) -> None:
    """`python -m module arguments`, in this process."""
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [module, *arguments]
    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Answers requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = sys.stdin, os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in imported_by_commands():
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    for line in requests:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LIMIT)
            run(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


if __name__ == "__main__":
    main()
