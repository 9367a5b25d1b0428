"""Classes of other packages, named "package.module:Class" in a config.

Importing a package runs its code, so this is done only where the person who starts a command names the package: in a
config file that they start, which is code of theirs anyway, or with `--plugin=PACKAGE`. What a run's folder holds names
nothing that is imported.
"""

import dataclasses
import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

from research.errors import UserError

_allowed: set[str] = set()


def allow(package: str) -> None:
    """Lets classes of a package be imported, from where it is installed or from the current folder."""
    if not package.isidentifier():
        raise UserError(f"--plugin {package!r} is not the name of a package: give a name such as my_models")
    _allowed.add(package)
    if os.getcwd() not in sys.path:  # `python -m` has it, an installed command has not
        sys.path.append(os.getcwd())


def allow_named(config: Mapping[str, Any]) -> None:
    """Lets the packages be imported that sections of a config name, at any depth: for a person's own config file."""
    for key, value in config.items():
        for section in value if isinstance(value, tuple) else (value,):
            if isinstance(section, Mapping):
                allow_named(section)
        if key == "name" and isinstance(value, str) and ":" in value and _package(value).isidentifier():
            allow(_package(value))


def imported(name: str, where: str) -> type:
    """The class that "package.module:Class" names. Raises UserError where it may not or cannot be imported."""
    package, (module, _, attribute) = _package(name), name.partition(":")
    if package not in _allowed:
        raise UserError(
            f"{where} is {name!r}, a class outside of this project, whose code would be run: if you trust it, add "
            f"--plugin={package}"
        )
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever somebody's package raises
        raise UserError(f"{where} {name!r} cannot be imported ({type(error).__name__}: {error})") from error
    if not isinstance(cls, type) or not dataclasses.is_dataclass(cls):
        raise UserError(f"{where} {name!r} is not a dataclass or Linen module: name the class itself")
    return cls


def _package(name: str) -> str:
    return name.partition(":")[0].partition(".")[0]
