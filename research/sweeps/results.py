"""What a sweep found: `sweep.csv`, `sweep.md`, `sweep.json`, and `best.py`, a config of the best point."""

import csv
import dataclasses
import io
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from research.errors import one_line
from research.files import write_json, write_text
from research.sweeps.plan import Plan
from research.sweeps.space import decode, overrides, spec_of
from research.sweeps.study import CELL, Study

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@dataclasses.dataclass(frozen=True)
class Group:
    """The complete trials of one point, which differ in their seed alone."""

    point: dict[str, Any]
    trials: list[FrozenTrial]

    @property
    def mean(self) -> float:
        """Of the objective."""
        return statistics.fmean(trial.value for trial in self.trials if trial.value is not None)

    @property
    def deviation(self) -> float | None:
        """The standard deviation over seeds (n - 1), None for a single seed."""
        return statistics.stdev(trial.value for trial in self.trials) if len(self.trials) > 1 else None

    def __str__(self) -> str:
        return f"{self.mean:.4g}" + (f" ± {self.deviation:.2g}" if self.deviation is not None else "")


def ranked(plan: Plan, trials: Sequence[FrozenTrial]) -> list[Group]:
    """Groups of complete trials, best first; those that lack seeds which others have come after them."""
    groups: dict[str, Group] = {}
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            point = {path: value for path, value in trial.params.items() if path != "seed"}
            group = groups.setdefault(repr(sorted(point.items(), key=str)), Group(point, []))
            group.trials.append(trial)
    sign = 1 if plan.direction == "minimize" else -1
    return sorted(groups.values(), key=lambda group: (-len(group.trials), sign * group.mean))


def write_results(study: Study) -> list[Group]:
    """Writes all of the files into the sweep's folder, as far as it has come. Returns the groups, best first."""
    with study.locked():
        trials = study.trials()
        groups = ranked(study.plan, trials)
        write_text(study.folder / "sweep.csv", _csv(study, trials))
        write_text(study.folder / "sweep.md", _markdown(study, trials, groups))
        if groups:
            _write_best(study, groups[0])
    return groups


def _write_best(study: Study, best: Group) -> None:
    plan = study.plan
    point = {path: decode(plan.space[path], value) for path, value in best.point.items()}
    write_text(study.folder / "best.py", _config(plan, point, best))
    runs = [study.trial_folder(trial.number).relative_to(study.folder).as_posix() for trial in best.trials]
    found = {"point": best.point, "value": best.mean, "deviation": best.deviation, "runs": runs}
    write_json(study.folder / "sweep.json", {"objective": plan.objective, "direction": plan.direction, "best": found})


def shown(value: Any) -> str:
    """A swept value for a table."""
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else one_line(str(value), CELL)


def _short(value: Any) -> Any:
    return one_line(value, CELL) if isinstance(value, str) else value


def _cell(text: str) -> str:
    """`one_line` in a cell of a Markdown table."""
    return one_line(text, CELL).replace("|", "\\|")


def from_root(spec: str) -> str:
    """A config of this repository by its path there, another by its whole path."""
    root = Path(__file__).resolve().parents[2]
    return Path(spec).relative_to(root).as_posix() if Path(spec).is_relative_to(root) else spec


def _csv(study: Study, trials: Sequence[FrozenTrial]) -> str:
    paths = [path for path in study.plan.space if path != "seed"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "seed", "value", *paths, "seconds", "folder", "reason"])
    for trial in trials:
        seconds = trial.user_attrs.get("seconds")
        folder = study.trial_folder(trial.number).relative_to(study.folder).as_posix()
        writer.writerow(
            [trial.number, STATES[trial.state], trial.params.get("seed"), trial.value]
            + [_short(trial.params.get(path)) for path in paths]
            + [seconds and round(seconds, 2), folder, _short(trial.user_attrs.get("reason"))]
        )
    return text.getvalue()


def _markdown(study: Study, trials: Sequence[FrozenTrial], groups: Sequence[Group]) -> str:
    plan = study.plan
    paths = [path for path in plan.space if path != "seed"]
    counts = {name: sum(trial.state == state for trial in trials) for state, name in STATES.items()}
    lines = [
        one_line(f"# {study.folder.resolve().name}: {plan.objective}, {plan.direction}d"),
        "",
        f"Config `{one_line(from_root(plan.spec))}`; sampler {plan.sampler}, pruner {plan.pruner}; "
        + ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        + ".",
        "",
        "| " + " | ".join(map(_cell, [plan.objective, *paths, "trials"])) + " |",
        "|" + " --- |" * (len(paths) + 2),
    ]
    for group in groups:
        numbers = ", ".join(str(trial.number) for trial in group.trials)
        cells = [str(group), *(shown(group.point.get(path)) for path in paths), numbers]
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    if failed:
        lines += ["", "Failed:", ""]
        lines += [f"- trial {trial.number}: {one_line(str(trial.user_attrs.get('reason')), CELL)}" for trial in failed]
    return "\n".join(lines) + "\n"


def _config(plan: Plan, point: dict[str, Any], best: Group) -> str:
    values = {**plan.given, **overrides(point)}  # as text, which `load` reads as it did for the trials
    changes = "".join(f"    {_quoted(path)}: {_quoted(text)},\n" for path, text in values.items())
    spec, trials = from_root(spec_of(plan.spec, point)), ", ".join(str(trial.number) for trial in best.trials)
    several = "s" if len(best.trials) > 1 else ""
    told = f"The best point of a sweep over {spec}: {plan.objective} {best} (trial{several} {trials})."
    # A person starts this file as code: texts from outside stand in it as literals alone.
    return f'''{_quoted(one_line(told))}

from ml_collections import ConfigDict

from research.config import load

CHANGES = {{
{changes}}}


def get_config(arg: str = "") -> ConfigDict:
    """No arguments."""
    return load({_quoted(spec)}, CHANGES)
'''


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
