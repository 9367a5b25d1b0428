"""What a run's folder tells, read without opening the experiment: a run may be going on, killed or half copied."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from research.errors import UserError
from research.locks import holder
from research.reports import stored
from research.training.loggers import number

FILES = ("config.json", "metrics.jsonl", "results.json", "timing.json", "manifest.json", "report.json")
"""What a page is made of; each may be missing."""

type State = Literal["running", "finished", "stopped"]


@dataclasses.dataclass(frozen=True)
class Record:
    """A run. `shown` is what `research.reports.samples` recorded: samples, attention and memory.

    `evaluations` are those that `evaluate --name` kept, by their names.
    `notes` are sentences about what its files hold and a page cannot show.
    """

    folder: Path
    state: State
    config: dict[str, Any]
    rows: Sequence[dict[str, Any]]
    results: stored.Values
    timing: stored.Values
    manifest: dict[str, Any]
    shown: dict[str, Any]
    evaluations: Mapping[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def step(self) -> int:
        """The last step of the log; 0 before the first."""
        return self.rows[-1]["step"] if self.rows else 0

    @property
    def metrics(self) -> dict[str, float]:
        """The run's results, or while there are none what the log says last of each metric that was validated."""
        last = {name: value for row in self.rows for name, value in row.items() if name.startswith("validation/")}
        values = {name: number(value) for name, value in (self.results or last).items()}
        return {name: value for name, value in sorted(values.items()) if value is not None}

    def curve(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values, float64 [points], of a metric; what was not a number is not finite there."""
        points = [(row["step"], number(row[metric])) for row in self.rows if metric in row]
        steps, values = zip(*points, strict=True) if points else ((), ())
        return np.array(steps, float), np.array([math.nan if value is None else value for value in values])

    @property
    def examples_per_step(self) -> float:
        """Examples of one update; 0 where the log does not tell."""
        for row in self.rows:
            steps, examples = (number(row.get(f"time/{name}_per_second")) for name in ("steps", "examples"))
            if steps and examples:
                return examples / steps
        return 0.0

    def seconds(self, steps: np.ndarray) -> np.ndarray:
        """Seconds of training, without evaluations and saving, until each of `steps`."""
        logged, rates = self.curve("time/steps_per_second")
        good = np.isfinite(rates) & (rates > 0)
        if not good.any():
            return np.zeros_like(steps)
        logged, rates = np.concatenate([[0], logged[good]]), rates[good]
        return np.interp(steps, logged, np.concatenate([[0], np.cumsum(np.diff(logged) / rates)]))


def read_run(folder: Path, state: State | None = None, root: Path | None = None) -> Record:
    """The run of a folder, as far as its files can be read; `state` is found out unless given.

    Files that lead out of `root`, the folder itself unless given, are not read. Raises UserError for a folder that
    holds no run.
    """
    root, notes = root or folder, []
    if not any(stored.exists(folder / name, root) for name in ("config.json", "metrics.jsonl")):
        raise UserError(f"{folder} holds no run: give the folder of one, with its config.json or metrics.jsonl")
    return Record(
        folder,
        state or state_of(folder, root),
        config=stored.read(folder / "config.json", dict[str, Any], root, notes) or {},
        rows=stored.metrics(folder / "metrics.jsonl", root, notes),
        results=stored.results(folder / "results.json", root, notes),
        timing=stored.read(folder / "timing.json", stored.Values, root, notes) or {},
        manifest=stored.read(folder / "manifest.json", dict[str, Any], root, notes) or {},
        shown=stored.shown(folder / "report.json", root, notes),
        evaluations=stored.evaluations(folder / "evaluations", root, notes),
        notes=notes,
    )


def state_of(folder: Path, root: Path | None = None) -> State:
    """Finished once there are results; running while a process holds the folder's lock."""
    if stored.exists(folder / "results.json", root or folder):
        return "finished"
    return "running" if holder(folder / ".lock") else "stopped"


def section(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """A section of a stored config, or of a section of it, by its names; {} where there is none."""
    for name in names:
        inner = values.get(name)
        values = inner if isinstance(inner, dict) else {}
    return dict(values)
