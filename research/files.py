"""Files of the project's own: written whole or not at all, and read as data that anybody may have changed."""

import contextlib
import itertools
import json
import math
import os
import stat
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeGuard, Union

from research.errors import UserError

LARGEST = 256 * 2**20
"""Bytes of a stored file that is read at once; the largest that this project writes has a few million."""


class Unreadable(UserError):
    """A stored file that is missing, that is not a file, or that does not hold what it should."""


def write_text(path: Path, text: str) -> None:
    """Replaces a file atomically: a reader or a kill sees the old text or the new one, never a part.

    Nothing is written through a link or a pipe that lies there, whoever made it.
    """
    with replacing(path) as temporary, temporary.open("x", encoding="utf-8") as file:
        file.write(text)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file yet to be written, which takes the place of `path` when the block ends well."""
    temporary = path.with_name(path.name + ".partial")
    temporary.unlink(missing_ok=True)
    yield temporary
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """`write_text` of indented JSON with sorted keys. Raises ValueError for NaN and infinities, which JSON lacks."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_text(path: Path) -> str:
    """The text of a stored file. Raises Unreadable for one that is missing, not a file, too large or not UTF-8.

    Only regular files are opened: a pipe in the place of one would never end.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable(f"{path} is not a file: move it away, or restore the file from a copy")
        if found.st_size > LARGEST:
            raise Unreadable(f"{path} has {found.st_size:,} bytes, and at most {LARGEST:,} are read: restore it")
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise Unreadable(f"{path} cannot be read ({error.strerror}): restore it from a copy") from error
    except UnicodeDecodeError as error:
        raise Unreadable(f"{path} is not UTF-8 text ({error.reason}): restore it from a copy") from error


def read_json(path: Path, hint: Any = dict[str, Any]) -> Any:
    """The JSON of a stored file, which has to be of the type `hint`, such as dict[str, float] or list[str].

    Raises Unreadable for a file that `read_text` refuses, that is not JSON (NaN is not), or that holds another type.
    """
    text = read_text(path)
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{path} is not JSON ({str(error)[:100]}): restore it from a copy") from error
    if not fits(value, hint):
        name = getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else str(hint).replace("typing.", "")
        raise Unreadable(f"{path} holds {text.strip()[:40]!r} and not a {name}: restore it from a copy")
    return value


def set_aside(path: Path, reason: str) -> None:
    """Moves what was saved to a name of its own beside it ("results.json.1") and says so: nothing is ever deleted."""
    number = next(number for number in itertools.count(1) if not path.with_name(f"{path.name}.{number}").exists())
    kept = path.with_name(f"{path.name}.{number}")
    path.rename(kept)
    print(f"warning: {reason}: {path.name} is now {kept.name}, and is made anew", file=sys.stderr, flush=True)


def read_or_set_aside(path: Path, hint: Any) -> Any | None:
    """The JSON of a file that can be made anew; None where there is none, or where it was unreadable and set aside."""
    if not path.exists() and not path.is_symlink():
        return None
    try:
        return read_json(path, hint)
    except Unreadable as error:
        set_aside(path, str(error).partition(": ")[0])
        return None


def fits[T](value: Any, hint: type[T]) -> TypeGuard[T]:
    """Whether a JSON value is of a type made of dict, list, unions, Any and plain types, all of it looked at.

    An int serves as a float, a bool only as a bool.
    """
    kind, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is Any:
        return True
    if kind in (Union, types.UnionType):
        return any(fits(value, arm) for arm in args)
    if kind is dict:
        return isinstance(value, dict) and (not args or all(fits(item, args[1]) for item in value.values()))
    if kind is list:
        return isinstance(value, list) and (not args or all(fits(item, args[0]) for item in value))
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    return isinstance(value, kind)


def inside(path: Path, folder: Path) -> bool:
    """Whether a path lies in a folder once all links are followed; False for one that cannot be followed."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # a loop of links, a name with a zero byte
        return path.resolve().is_relative_to(folder.resolve())
    return False


def own_folder(path: Path) -> Path:
    """A folder within a run's, made where there is none. Raises UserError for a link that leads out of the run."""
    if not inside(path, path.parent):
        raise UserError(f"{path} leads out of its folder: move it away, and run the same command again")
    path.mkdir(exist_ok=True)
    return path


def _finite(text: str) -> float:
    return float(text) if math.isfinite(float(text)) else _refuse(text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")
