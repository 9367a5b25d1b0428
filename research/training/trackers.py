"""Trackers: what a run logs, in the records of Trackio, Weights & Biases or MLflow besides.

The config section `tracker` picks one by `name`. Their packages are the user's to install, since they hold back the
versions of others that all need. A run that resumes continues its record, whose id is kept in `tracker.json` of its
folder, and what fails in a tracker is one warning and not the run's trouble.
"""

import dataclasses
import importlib
import importlib.util
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol

from research.errors import UserError
from research.files import own_folder, read_or_set_aside, write_json
from research.training.interruptions import Interrupted


class Record(Protocol):
    """One run in a tracker."""

    id: str

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Adds the metrics of a step."""

    def finish(self, *, failed: bool) -> None:
        """Ends the record, which may be continued."""


@dataclasses.dataclass(frozen=True)
class Trackio:
    """Trackio's own SQLite files on this machine; `trackio show` displays them.

    project: the name that the runs are listed under.
    """

    project: str = "heed"
    package: ClassVar[str] = "trackio"

    def record(self, folder: Path, config: Mapping[str, Any], known: str | None) -> Record:
        """Begins a record, or continues the `known` one."""
        return _Trackio(self.project, known or f"{folder.name}-{uuid.uuid4().hex[:6]}", config)


class _Trackio:
    def __init__(self, project: str, name: str, config: Mapping[str, Any]):
        trackio = importlib.import_module("trackio")
        self.id = name
        quiet = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
        self._run = trackio.init(project, name, config=dict(config), resume="allow", **quiet)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def finish(self, *, failed: bool) -> None:
        self._run.finish()


@dataclasses.dataclass(frozen=True)
class WeightsAndBiases:
    """Weights & Biases, offline: files in `wandb/` of the run's folder, which `wandb sync` sends.

    project: the name that the runs are listed under. Where the environment sets WANDB_MODE, that holds.
    """

    project: str = "heed"
    package: ClassVar[str] = "wandb"

    def record(self, folder: Path, config: Mapping[str, Any], known: str | None) -> Record:
        """Begins a record, or continues the `known` one."""
        return _WeightsAndBiases(self.project, folder, config, known or uuid.uuid4().hex[:8])


class _WeightsAndBiases:
    def __init__(self, project: str, folder: Path, config: Mapping[str, Any], known: str):
        wandb = importlib.import_module("wandb")
        self.id = known
        self._run = wandb.init(
            project=project,
            name=folder.name,
            id=known,
            resume="allow",
            dir=str(own_folder(folder / "wandb").parent),
            config=dict(config),
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=wandb.Settings(console="off", silent=True),
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def finish(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


@dataclasses.dataclass(frozen=True)
class MLflow:
    """MLflow, in its SQLite file `mlflow.db` of the working folder, or where MLFLOW_TRACKING_URI says.

    project: the experiment that the runs belong to.
    """

    project: str = "heed"
    package: ClassVar[str] = "mlflow"

    def record(self, folder: Path, config: Mapping[str, Any], known: str | None) -> Record:
        """Begins a record, or continues the `known` one."""
        return _MLflow(self.project, folder, config, known)


class _MLflow:
    def __init__(self, project: str, folder: Path, config: Mapping[str, Any], known: str | None):
        self._entities = importlib.import_module("mlflow.entities")
        self._client = importlib.import_module("mlflow").MlflowClient()
        if known is not None:
            self.id = known
            self._client.update_run(known, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(project)
        experiment = found.experiment_id if found else self._client.create_experiment(project)
        self.id = self._client.create_run(experiment, run_name=folder.name).info.run_id
        params = [self._entities.Param(path, str(value)[:6000]) for path, value in config.items()]
        for first in range(0, len(params), 100):
            self._client.log_batch(self.id, params=params[first : first + 100])

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        found = [self._entities.Metric(name, value, now, step) for name, value in metrics.items()]
        self._client.log_batch(self.id, found)

    def finish(self, *, failed: bool) -> None:
        self._client.set_terminated(self.id, "FAILED" if failed else "FINISHED")


TRACKERS = {"mlflow": MLflow, "trackio": Trackio, "wandb": WeightsAndBiases}


def check_installed(tracker: Any) -> None:
    """Raises UserError where the package of a tracker is not there."""
    package = getattr(tracker, "package", None)  # a user's own class may do without
    spec = package and importlib.util.find_spec(package)
    if package and (spec is None or spec.origin is None):  # a folder of that name is not a package
        raise UserError(f"tracker.name {package!r} needs its package: pip install {package}, or leave tracker out")


class Tracked:
    """A run's record in a tracker, given up with a warning where anything of it fails; none with `tracker` None.

    config: dotted paths and values.
    """

    def __init__(self, tracker: Any, folder: Path, config: Mapping[str, Any]):
        self._record: Record | None = None
        if tracker is not None:
            self._tried(lambda: self._begin(tracker, folder, config))

    def __enter__(self) -> "Tracked":
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if record := self._record:
            failed = kind is not None and not issubclass(kind, Interrupted)  # the same command resumes it
            self._tried(lambda: record.finish(failed=failed))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a step."""
        if record := self._record:
            self._tried(lambda: record.log(metrics, step))

    def _begin(self, tracker: Any, folder: Path, config: Mapping[str, Any]) -> None:
        path = folder / "tracker.json"
        kept = read_or_set_aside(path, dict[str, str]) or {}
        name = getattr(tracker, "package", type(tracker).__name__)
        known = kept.get("id") if kept.get("name") == name else None
        self._record = tracker.record(folder, config, known)
        write_json(path, {"name": name, "id": self._record.id})

    def _tried(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # of any kind: these are other people's programs
            self._record = None
            told = " ".join(str(error).split())[:300]
            print(
                f"warning: the tracker failed, and the run continues without it: {type(error).__name__}: {told}",
                file=sys.stderr,
            )
