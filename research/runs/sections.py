"""The sections of a config: their names, and what of them may change in a run's life."""

import os
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from research.config import pick
from research.ranges import Afterwards, Moved
from research.runs.tables import SOURCES, TASKS
from research.values import marked

REQUIRED = ("model", "task", "data", "optimizer", "training")
_OPTIONAL = ("schedule", "mesh", "checkpoint", "transfer", "distillation", "tracker", "weights", "seed", "expect")
SECTIONS = (*REQUIRED, *_OPTIONAL)


def later(config: ConfigDict) -> set[str]:
    """Dotted paths of what changes nothing that is learnt, such as the decoding settings of the config's task."""
    return _marked(config, Afterwards)


def moved(config: ConfigDict) -> set[str]:
    """Dotted paths of where the data lie."""
    return _marked(config, Moved)


def _marked(config: ConfigDict, kind: type) -> set[str]:
    found = set()
    for section, table in {"task": TASKS, "data": SOURCES}.items():
        if section in config:
            found |= {f"{section}.{path}" for path in marked(pick(table, config[section], section)[0], kind)}
    return found


def at_home(section: Mapping[str, Any]) -> dict[str, Any]:
    """The section with "~/" in its paths followed: no shell does so in `--config.data.path=~/pictures`."""
    values = dict(section.items())
    return {
        name: os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value
        for name, value in values.items()
    }
