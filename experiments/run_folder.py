"""A run's folder: whose it is, what it was made with, and opening it again."""

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from experiments.experiment import Experiment, build_experiment
from research.config import ABSENT, diff, from_json, to_json
from research.errors import UserError
from research.files import write_json, write_text

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tokenizers", "numpy")


def claim(folder: Path, config: ConfigDict) -> None:
    """Makes the folder this config's, or checks that it already is. Raises UserError for another experiment's folder.

    Sections that do not change what is learnt (`expect`) may differ; the folder then keeps the new ones.
    """
    stored = folder / "config.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not stored.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} holds other files and no run: give --workdir a new or empty folder")
        if stored.exists():
            _check_same(folder, from_json(stored.read_text()), config)
        if jax.process_index() == 0:
            write_text(stored, to_json(config) + "\n")
    except OSError as error:
        raise UserError(f"--workdir {folder} cannot be written ({error.strerror}): use another folder") from error


def _check_same(folder: Path, stored: ConfigDict, config: ConfigDict) -> None:
    changes = [change for change in diff(stored, config) if not change[0].startswith("expect")]
    if changes:
        listed = "; ".join(f"{path} is {_short(old)} there and {_short(new)} here" for path, old, new in changes[:4])
        more = f" and {len(changes) - 4} more" if len(changes) > 4 else ""
        raise UserError(
            f"{folder} holds a run of another config ({listed}{more}): use another --workdir, or the config it had"
        )


def _short(value: Any) -> str:
    return "absent" if value == ABSENT else repr(value)


def open_run(folder: Path) -> Experiment:
    """The experiment of a finished or half-finished run."""
    stored = folder / "config.json"
    if not stored.exists():
        raise UserError(f"{folder} holds no run: give --workdir the folder of one that was trained")
    return build_experiment(from_json(stored.read_text()), folder)


def write_manifest(experiment: Experiment) -> None:
    """`manifest.json`: what is needed to repeat the run; each start adds its command, commit and machine."""
    path = experiment.folder / "manifest.json"
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
    write_json(path, {"seed": experiment.seed, "data": _fingerprint(experiment), "starts": [*starts, start]})


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


def _fingerprint(experiment: Experiment) -> Mapping[str, Any]:
    """The size of every split and a digest of a few of its examples: enough to notice other data."""
    fingerprint = {}
    for split in experiment.source.splits:
        examples = experiment.source.examples(split)
        digest = hashlib.sha256()
        for index in {0, len(examples) // 2, len(examples) - 1} if len(examples) else ():
            for name, value in sorted(examples[index].items()):
                digest.update(name.encode())
                digest.update(value.tobytes() if hasattr(value, "tobytes") else str(value).encode())
        fingerprint[split] = {"examples": len(examples), "sha256_of_three": digest.hexdigest()}
    return fingerprint
