"""What the commands share: reading `--config.section.key=value`, and ending in one sentence when something is wrong."""

import argparse
import contextlib
import io
import ipaddress
import logging
import os
import platform
import re
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from research.config import suggestion
from research.data.image_files import shown
from research.data.token_store import CACHE_VARIABLE, digest
from research.errors import UserError, one_line
from research.memory import keep_memory
from research.plugins import allow
from research.training.interruptions import RESTART, Interrupted

KEPT_PROGRAMS = 2**30
"""Bytes of compiled programs that are kept, the latest used."""


def run_command(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> None:
    """Parses the command line and runs `main`; a UserError becomes one line on stderr and exit code 2.

    An interrupted run that is saved ends with one line too, and with exit code 75 (`interruptions.RESTART`).

    Options `--config.a.b=value` land in `arguments.overrides`, a dict of dotted paths to text, and
    `--sweep.a.b=values` in `arguments.swept`, for commands with the option `--sweep.PATH`.
    """
    _quiet()
    keep_memory()
    _keep_programs()
    _own_streams()
    _own_numbers()
    try:
        _check_text(sys.argv)
        main(parse(parser, sys.argv[1:]))
        _flush()
    except UserError as error:
        _stop(f"error: {error}", 2)
    except Interrupted as interruption:
        if jax.process_count() > 1:
            jax.distributed.shutdown()  # waits for the others: who leaves at once takes them along
        _stop(str(interruption), RESTART)
    except OSError as error:
        if error.strerror is None:
            raise
        name = error.filename or "standard output or a file"
        _stop(f"error: {name}: {error.strerror}: see to it, and run the same command again", 2)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        full = isinstance(error, MemoryError) or re.search("RESOURCE_EXHAUSTED|Out of memory", str(error))
        if not full:
            raise
        remedy = "use a smaller training.batch_size or model, or more of training.accumulate"
        _stop(f"error: memory is full ({one_line(str(error))[:150]}): {remedy}", 2)
    except KeyboardInterrupt:
        _stop("interrupted: the same command resumes from the last checkpoint, if one was saved", 130)


def _check_text(arguments: Sequence[str]) -> None:
    """Raises UserError for an argument that is not text in this locale: it could be neither written nor shown."""
    for argument in arguments:
        if not argument.isascii() and any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise UserError(
                f"{shown(argument)} is not {sys.getfilesystemencoding()} text: set PYTHONUTF8=1, or rename the file"
            )


def _flush() -> None:
    """Raises OSError for output that cannot be written, instead of ending without a word."""
    if sys.stdout is not None:
        sys.stdout.flush()


class _Pipe(io.FileIO):
    """An output that nobody has to read: `train | head -1` ends the reading, not the training."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def _own_streams() -> None:
    """UTF-8 in every locale, and no error for a reader that left. What is not text (a file's name) is escaped."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:  # closed by the caller
            continue
        buffer = io.BufferedWriter(_Pipe(number, "w", closefd=False))
        lines = number == 2 or os.isatty(number)
        setattr(sys, name, io.TextIOWrapper(buffer, "utf-8", "backslashreplace", line_buffering=lines))


def _own_numbers() -> None:
    """The same dtypes and random numbers in every environment: a run's bits depend on its config alone."""
    fixed = {
        "jax_enable_x64": False,
        "jax_numpy_dtype_promotion": "standard",
        "jax_numpy_rank_promotion": "allow",
        "jax_default_prng_impl": "threefry2x32",
        "jax_threefry_partitionable": True,
    }
    for name, value in fixed.items():
        jax.config.update(name, value)


def _stop(message: str, code: int) -> None:
    """Ends the process with one line. Threads that still read, save or log are not waited for: they may have failed."""
    with contextlib.suppress(OSError):  # a full disk may have been the reason to stop
        _flush()
    with contextlib.suppress(OSError):
        print(one_line(message), file=sys.stderr, flush=True)
    os._exit(code)


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Arguments with their overrides. Raises UserError for an option that the command does not have."""
    parser.allow_abbrev = False  # --config would be taken for --config.data.PATH where there is no --config
    known, rest = parser.parse_known_args(arguments)
    for name, value in vars(known).items():
        if isinstance(value, str) and value.startswith("~/"):  # which a shell leaves as it is in --workdir=~/run
            setattr(known, name, os.path.expanduser(value))
    known.overrides, known.swept = {}, {}
    options = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
    dotted = {"--config": known.overrides} if {"--config", "--config.data.PATH"} & {*options} else {}
    dotted |= {"--sweep": known.swept} if "--sweep.PATH" in options else {}
    rest_iterator = iter(rest)
    for option in rest_iterator:
        path, separator, value = option.partition("=")
        kind, dot, name = path.partition(".")
        if dot and kind in dotted:
            if not separator and (value := next(rest_iterator, None)) is None:
                raise UserError(f"{path} has no value: write {path}=VALUE")
            dotted[kind][name] = value
        else:
            raise UserError(f"{option} is not an option of this command: {suggestion(path, options, 'options')}")
    return known


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds `--config`, which every other `--config.section.key=value` refines."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE.py[:ARGUMENT]",
        help="the experiment, e.g. configs/vision/digits.py or configs/vision/digits.py:tiny; "
        "any of its values changes with --config.section.key=value",
    )
    add_cache(parser)


def number(text: str) -> int:
    """A number of things, as the type of an option."""
    if not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 999,999,999")
    return int(text)


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Adds `--cache`, which the processes that this one starts inherit through the environment."""
    parser.add_argument(
        "--cache",
        metavar="FOLDER",
        type=_cached,
        help="where tokens of large texts and indices of tar files are kept for later runs (beside them unless given)",
    )


def _cached(folder: str) -> str:
    os.environ[CACHE_VARIABLE] = os.path.abspath(os.path.expanduser(folder))
    return folder


def is_local(host: str) -> bool:
    """Whether an address to listen at is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def add_plugin(parser: argparse.ArgumentParser) -> None:
    """Adds `--plugin`, without which no code that a run's folder names is imported."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="PACKAGE",
        type=_allowed,
        help="a package of your own, or one you trust, whose classes the run's config names as package.module:Class",
    )
    add_cache(parser)


def _allowed(package: str) -> str:
    allow(package)
    return package


def _keep_programs() -> None:
    """Compiled programs are kept for the next start, unless JAX_COMPILATION_CACHE_DIR names another place for them.

    Each kind of processor has a folder of its own: a home folder may be shared by machines of several kinds.
    """
    if jax.config.jax_compilation_cache_dir:
        return
    cpu = Path("/proc/cpuinfo")
    features = re.findall(r"^(?:flags|Features)\s*:(.*)", cpu.read_text() if cpu.exists() else "", re.MULTILINE)[:1]
    kind = digest([platform.machine(), features])
    with contextlib.suppress(OSError, RuntimeError):  # no home folder, or one that cannot be written
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = home / "heed" / f"programs-{kind}"
        folder.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        jax.config.update("jax_compilation_cache_max_size", KEPT_PROGRAMS)


def _quiet() -> None:
    """Libraries log what is wrong, not what they are doing."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    levels = {"": logging.ERROR, "jax": logging.ERROR, "absl": logging.CRITICAL, "asyncio": logging.CRITICAL}
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)
    # What fails in a thread of Orbax or Grain is raised again in the main thread, where it becomes one sentence.
    threading.excepthook = lambda arguments: None
    sys.unraisablehook = lambda arguments: None  # the same of their callbacks and of tasks that nobody awaited
