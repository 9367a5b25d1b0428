"""The folders of runs and sweeps below a folder."""

import dataclasses
import os
from pathlib import Path

from research.files import inside
from research.reports.records import FILES

WATCHED = frozenset({*FILES, "sweep.csv", "importance.png"})
"""Files of which pages are made."""
PRUNED = frozenset({"checkpoints", "tensorboard", "attention"})
"""Folders of a run that hold no runs but many files."""


@dataclasses.dataclass(frozen=True)
class Found:
    """A folder of a run or a sweep as one look at it has found it.

    name: its path from the served folder, "" for that itself. stamp: grows or changes with everything that its page
    shows. changed: when that was last written, in seconds since 1970.
    """

    name: str
    place: str
    sweep: bool
    finished: bool
    stamp: tuple[tuple[str, int, int], ...]
    changed: float

    @property
    def folder(self) -> Path:
        """Where it is."""
        return Path(self.place)


def runs_of(root: Path) -> dict[str, Found]:
    """Every folder of a run or a sweep under `root`, by its name; links to folders are not followed, nor files that
    lead out of `root`."""
    found: dict[str, Found] = {}
    _look(str(root.resolve()), "", root, found)
    return found


def _look(folder: str, name: str, root: Path, found: dict[str, Found]) -> list[tuple[str, int, int]]:
    """Adds what is in a folder and returns its stamp. What disappears meanwhile is not there."""
    stamp, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name in WATCHED and (not entry.is_symlink() or inside(Path(entry.path), root)):
                    status = entry.stat()
                    stamp.append((entry.name, status.st_mtime_ns, status.st_size))
                elif entry.name not in PRUNED and entry.is_dir(follow_symlinks=False):
                    folders.append(entry)
    except OSError:
        return []
    names = {file for file, _, _ in stamp}
    below = []
    for inner in folders:
        below += _look(inner.path, f"{name}/{inner.name}" if name else inner.name, root, found)
    if "sweep.csv" in names:  # its page shows its trials
        stamp += below
    if not names.isdisjoint({"config.json", "metrics.jsonl", "sweep.csv"}):
        # As a browser asks for it: a name that is no UTF-8 comes back with signs in its place.
        shown = os.fsencode(name).decode("utf-8", "replace")
        changed = max(time for _, time, _ in stamp) / 1e9
        kinds = "sweep.csv" in names, "results.json" in names
        found[shown] = Found(shown, folder, *kinds, tuple(sorted(stamp)), changed)
    return stamp
