"""A run's folder: whose it is, what it was made with, and opening it again."""

import contextlib
import dataclasses
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from research.config import ABSENT, diff, read_config, to_json
from research.data.source import Source
from research.errors import UserError
from research.files import Unreadable, read_json, read_or_set_aside, set_aside, write_json, write_text
from research.locks import holder, try_lock
from research.training.fingerprint import checksum
from research.weights.files import INDEX, ONE

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tokenizers", "numpy")

type Data = Mapping[str, Mapping[str, Any]]
"""What `data_of` says of each split."""

MANIFEST = dict[str, dict[str, dict[str, Any]] | list[dict[str, Any]] | int | None]

LAUNCH_ONLY = ("expect", "mesh", "tracker", "training.workers", "checkpoint.every_minutes")
"""Parts of a config that do not change what is learnt: a run may resume with others."""
LENGTH = "training.duration"
MADE_OF_DATA = ("tokenizer.json", "target_tokenizer.json", "classes.json", "image.json")
"""Files of a run's folder without which its parameters mean nothing."""
MADE_ANEW = (
    *MADE_OF_DATA,
    "batch.json",
    "micro_batches.json",
    "hub.json",
    "teacher.json",
    "tracker.json",
    "manifest.json",
)
LEFT_BY_A_START = (
    *(*MADE_ANEW, "config.json", "metrics.jsonl", "report.html", "tensorboard", "checkpoints"),
    "wandb",
)
"""What a start makes before its first step, and of it what depends on the config."""


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, whose `config.json` has sections: a published model has one of another kind."""
    stored = folder / "config.json"
    if not stored.exists():
        return folder.is_dir() and not any((folder / name).exists() for name in (ONE, INDEX))
    return "model" in read_json(stored)


@dataclasses.dataclass(frozen=True)
class Claim:
    """A folder that this process alone writes to, and in what the config differs from that of the last start."""

    folder: Path
    config: ConfigDict
    complete: bool = False
    """Whether `results.json` holds what this config is to measure."""
    measured: tuple[str, ...] = ()
    """Dotted paths that differ and change results, such as the size of a beam, or the end of the run."""
    moved: bool = False
    """Whether the data lie elsewhere, and have to be the same."""

    def keep(self) -> None:
        """The folder is now this config's, whose results are to be measured anew where they may differ."""
        if jax.process_index() > 0:
            return
        try:
            write_text(self.folder / "config.json", to_json(self.config) + "\n")
            if self.measured and (self.folder / "results.json").exists():
                set_aside(self.folder / "results.json", f"{', '.join(self.measured)} changed since they were measured")
        except OSError as error:
            raise _unwritable(self.folder, error) from error


@contextlib.contextmanager
def claim(
    folder: Path, config: ConfigDict, later: Collection[str] = (), moved: Collection[str] = ()
) -> Iterator[Claim]:
    """Checks that the folder is this config's, or new, and keeps other commands from writing to it.

    What is `LAUNCH_ONLY`, `later` or `moved` (dotted paths) may differ from the last start, and the duration may be
    longer: once that is checked, `Claim.keep` makes the folder keep the new values. One in which no step was logged or
    saved takes any config.

    Raises UserError for another experiment's folder, or one that a living process writes to.
    """
    if jax.process_index() > 0:  # process 0 looks after the folder, the others wait until it has
        complete, elsewhere = multihost_utils.broadcast_one_to_all(np.zeros(2, bool))
        yield Claim(folder, config, bool(complete), moved=bool(elsewhere))
        return
    with _locked(folder):
        try:
            claimed = _claim(folder, config, {*later, LENGTH}, moved)
        except OSError as error:
            raise _unwritable(folder, error) from error
        if jax.process_count() > 1:
            multihost_utils.broadcast_one_to_all(np.array([claimed.complete, claimed.moved]))
        yield claimed


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"--workdir {folder} cannot be written ({error.strerror}): use another folder")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock. A holder that may be dead is watched first: what was killed resumes at once."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    lock = try_lock(folder / ".lock", patient=True)
    if lock is None:
        raise UserError(
            f"{folder} is being written by another process ({holder(folder / '.lock') or 'just started'}): "
            "wait for it to end, stop it, or use another --workdir"
        )
    with lock:
        yield


def _claim(folder: Path, config: ConfigDict, later: Collection[str], moved: Collection[str]) -> Claim:
    stored = folder / "config.json"
    if not stored.exists() and any(not path.name.startswith(".lock") for path in folder.iterdir()):
        raise UserError(f"{folder} holds other files and no run: give --workdir a new or empty folder")
    if not _begun(folder):
        if stored.exists() and diff(read_config(stored), config):
            for name in MADE_ANEW:
                (folder / name).unlink(missing_ok=True)
        write_text(stored, to_json(config) + "\n")
        return Claim(folder, config)
    changes = diff(read_config(stored), config)
    _refuse([change for change in changes if not _may_change(change[0], {*later, *moved})], folder)
    _check_longer(changes, folder)
    paths = [path for path, _, _ in changes]
    measured = [path for path in paths if _may_change(path, later) and not path.startswith(LAUNCH_ONLY)]
    complete = not measured and kept_results(folder) is not None
    return Claim(folder, config, complete, tuple(measured), bool({*paths} & {*moved}))


def _begun(folder: Path) -> bool:
    """Whether there is more than a start leaves before its first step, such as a checkpoint or a line of the log."""
    log = folder / "metrics.jsonl"
    others = {path.name for path in folder.iterdir() if not path.name.startswith(".lock")} - {*LEFT_BY_A_START}
    return bool(others) or bool(_saved(folder)) or (log.exists() and log.stat().st_size > 0)


def _saved(folder: Path) -> list[int]:
    """The steps of the checkpoints."""
    return [int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdecimal()]


def _check_longer(changes: Sequence[tuple[str, Any, Any]], folder: Path) -> None:
    """Raises UserError where the duration changes and does not grow."""
    for path, old, new in changes:
        if not path.startswith(LENGTH):
            continue
        if ABSENT in (old, new):
            raise UserError(f"{folder} counts its duration in another unit than {path}: give the longer one in that")
        if not (isinstance(new, int | float) and isinstance(old, int | float) and new > old):
            raise UserError(f"{path} is {new} and was {old} in {folder}: use more to train on, or another --workdir")


def _may_change(path: str, later: Collection[str]) -> bool:
    return path.startswith(LAUNCH_ONLY) or any(path == known or path.startswith(f"{known}.") for known in later)


def _refuse(changes: Sequence[tuple[str, Any, Any]], folder: Path) -> None:
    if changes:
        listed = "; ".join(f"{path} is {_short(old)} there and {_short(new)} here" for path, old, new in changes[:4])
        more = f" and {len(changes) - 4} more" if len(changes) > 4 else ""
        raise UserError(
            f"{folder} holds a run of another config ({listed}{more}): use another --workdir, or the config it had"
        )


def _short(value: Any) -> str:
    return "absent" if value == ABSENT else repr(value)


def write_manifest(
    folder: Path,
    seed: int | None = None,
    data: Data | None = None,
    spec: str = "",
    changes: Sequence = (),
    leg: Mapping[str, Any] | None = None,
) -> None:
    """`manifest.json`: what is needed to repeat the run; each start adds its command, commit and machine.

    data: `data_of` the run's source. spec, changes: the config's file, and in what the run's config differs from it.
    leg: `leg_of` the folder; a run that is trained on has more than one.
    """
    path = folder / "manifest.json"
    before = read_or_set_aside(path, MANIFEST) or {}
    if not isinstance(before.get("starts", []), list):
        set_aside(path, f"the starts of {path} are not a list")
        before = {}
    commit, uncommitted = _git("rev-parse", "HEAD"), _git("diff", "HEAD")
    start = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.executable).name, "-m", *_module_and_arguments()]),
        "config": spec or None,
        "changes": [[path, old, new] for path, old, new in changes],
        "commit": commit.strip() or None,
        "uncommitted_changes": uncommitted or None,
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "devices": [f"{device.device_kind} ({device.platform})" for device in jax.devices()],
        "processes": jax.process_count(),
        "cpus": os.cpu_count(),
    }
    legs = before.get("legs", [])
    legs = legs if isinstance(legs, list) else []
    if leg and (not legs or any(legs[-1].get(name) != leg[name] for name in ("duration", "schedule"))):
        legs = [*legs, dict(leg)]
    starts = [*before.get("starts", []), start]
    write_json(path, {"seed": seed, "data": data or {}, "legs": legs, "starts": starts})


def keep_results(folder: Path, results: Mapping[str, float]) -> None:
    """`results.json`, and in the manifest what `kept_results` knows it by."""
    with contextlib.suppress(Unreadable):  # provenance alone
        manifest = read_json(folder / "manifest.json", MANIFEST)
        write_json(folder / "manifest.json", {**manifest, "results": checksum(dict(results))})
    write_json(folder / "results.json", results)


def kept_results(folder: Path) -> dict[str, float] | None:
    """The results of a complete run. None where there are none, or others than were kept, which are set aside."""
    path = folder / "results.json"
    results = read_or_set_aside(path, dict[str, float])
    known = None
    with contextlib.suppress(Unreadable):
        known = read_json(folder / "manifest.json", MANIFEST).get("results")
    if results is not None and (not results or known not in (None, checksum(results))):
        set_aside(path, f"{path} is not what was measured")
        return None
    return results


def leg_of(folder: Path, config: ConfigDict) -> dict[str, Any]:
    """The part of a run that begins now: its duration, its schedule and the step it begins at."""
    sections: dict[str, Any] = {
        "duration": config.training.duration,
        "schedule": config.get("schedule", {"name": "constant"}),
    }
    plain = {name: json.loads(to_json(section)) for name, section in sections.items()}
    return plain | {"step": max(_saved(folder), default=0)}


def data_of(source: Source, splits: Sequence[str] | None = None) -> Data:
    """Of each split, or of these: its number of examples, its fingerprint, and what of the data is left out."""
    return {
        split: {
            "examples": len(source.examples(split)),
            "fingerprint": source.fingerprint(split),
            "left_out": list(source.left_out(split)),
        }
        for split in splits or source.splits
    }


def check_data(folder: Path, data: Data, learnt: Collection[str]) -> None:
    """Compares the data with those that the run began with, as `manifest.json` knows them.

    learnt: the splits that rule what is learnt. Raises UserError where one of these differs; of others it warns.
    """
    path, before = folder / "manifest.json", {}
    with contextlib.suppress(Unreadable):  # provenance alone: the next start sets it aside
        before = read_json(path, MANIFEST).get("data", {})
    for split, now in data.items():
        then = before.get(split, {})
        if all(then.get(name) in (None, now[name]) for name in ("examples", "fingerprint")):
            continue
        counts = f"{then.get('examples')} examples then, {now['examples']} now"
        if split in learnt:
            raise UserError(
                f"the {split} data are not those that {folder} began with ({counts}): restore them, use another "
                f"--workdir, or move {path.name} away to resume with these"
            )
        print(f"warning: the {split} data have changed since {folder} began ({counts})", file=sys.stderr, flush=True)


def _module_and_arguments() -> list[str]:
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    return [spec.name if spec else sys.argv[0], *sys.argv[1:]]


def _git(*command: str) -> str:
    root = Path(__file__).parent
    try:
        result = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, timeout=20)
        return "" if result.returncode else result.stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
