"""A run's folder: whose it is, what it was made with, and opening it again."""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from research.config import ABSENT, diff, from_json, to_json
from research.errors import UserError
from research.files import write_json, write_text

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tokenizers", "numpy")


LAUNCH_ONLY = ("expect", "mesh", "training.workers", "checkpoint.every_minutes")
"""Parts of a config that do not change what is learnt: a run may go on with others."""


@contextlib.contextmanager
def claim(folder: Path, config: ConfigDict) -> Iterator[None]:
    """Makes the folder this config's, or checks that it already is, and keeps other commands from writing to it.

    What is `LAUNCH_ONLY` may differ from the last start; the folder then keeps the new values.

    Raises UserError for another experiment's folder, or one that a living process writes to.
    """
    if jax.process_index() > 0:  # process 0 looks after the folder, the others wait until it has
        multihost_utils.sync_global_devices("claimed")
        yield
        return
    with _locked(folder):
        _claim(folder, config)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("claimed")
        yield


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, which the system takes back when the process ends, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+")
    except OSError as error:
        raise UserError(f"--workdir {folder} cannot be written ({error.strerror}): use another folder") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{folder} is being written by another process ({file.read().strip() or 'just started'}): "
                "wait for it to end, stop it, or use another --workdir"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield


def _claim(folder: Path, config: ConfigDict) -> None:
    stored = folder / "config.json"
    try:
        if not stored.exists() and any(path.name != ".lock" for path in folder.iterdir()):
            raise UserError(f"{folder} holds other files and no run: give --workdir a new or empty folder")
        if stored.exists():
            _check_same(folder, from_json(stored.read_text()), config)
        write_text(stored, to_json(config) + "\n")
    except OSError as error:
        raise UserError(f"--workdir {folder} cannot be written ({error.strerror}): use another folder") from error


def _check_same(folder: Path, stored: ConfigDict, config: ConfigDict) -> None:
    changes = [change for change in diff(stored, config) if not change[0].startswith(LAUNCH_ONLY)]
    if changes:
        listed = "; ".join(f"{path} is {_short(old)} there and {_short(new)} here" for path, old, new in changes[:4])
        more = f" and {len(changes) - 4} more" if len(changes) > 4 else ""
        raise UserError(
            f"{folder} holds a run of another config ({listed}{more}): use another --workdir, or the config it had"
        )


def _short(value: Any) -> str:
    return "absent" if value == ABSENT else repr(value)


def write_manifest(folder: Path, seed: int | None = None, source: Any = None) -> None:
    """`manifest.json`: what is needed to repeat the run; each start adds its command, commit and machine."""
    path = folder / "manifest.json"
    starts = json.loads(path.read_text())["starts"] if path.exists() else []
    commit, changes = _git("rev-parse", "HEAD"), _git("diff", "HEAD")
    start = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.executable).name, "-m", *_module_and_arguments()]),
        "commit": commit.strip() or None,
        "uncommitted_changes": changes or None,
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "devices": [f"{device.device_kind} ({device.platform})" for device in jax.devices()],
        "processes": jax.process_count(),
        "cpus": os.cpu_count(),
    }
    data = {} if source is None else _fingerprint(source)
    write_json(path, {"seed": seed, "data": data, "starts": [*starts, start]})


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


def _fingerprint(source: Any) -> Mapping[str, Any]:
    """The size of every split and a digest of a few of its examples: enough to notice other data."""
    fingerprint = {}
    for split in source.splits:
        examples = source.examples(split)
        digest = hashlib.sha256()
        for index in {0, len(examples) // 2, len(examples) - 1} if len(examples) else ():
            for name, value in sorted(examples[index].items()):
                digest.update(name.encode())
                digest.update(value.tobytes() if hasattr(value, "tobytes") else str(value).encode())
        fingerprint[split] = {"examples": len(examples), "sha256_of_three": digest.hexdigest()}
    return fingerprint
