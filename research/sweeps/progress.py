"""What a sweep says while it runs, and at its end."""

import sys

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from research.errors import UserError
from research.sweeps.results import STATES, from_root, ranked, shown, write_results
from research.sweeps.study import Study, Trial


class Progress:
    """A line for each trial that ends and, on a terminal, a bar."""

    def __init__(self, study: Study):
        self._study, self._plan = study, study.plan
        console = Console(file=sys.stdout)
        columns = TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        self._bar = rich.progress.Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("trials", total=len(study.trials()))

    def __enter__(self) -> "Progress":
        self._bar.start()
        self.show()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def show(self) -> tuple[int, int]:
        """Moves the bar; how many trials are finished, of how many."""
        trials = self._study.trials()
        finished = sum(trial.state.is_finished() for trial in trials)
        self._bar.update(self._task, completed=finished)
        return finished, len(trials)

    def say(self, trial: Trial) -> None:
        """Prints how a trial has ended, and writes the results so far."""
        groups = write_results(self._study)
        finished, total = self.show()
        frozen = self._study.frozen(trial.number)
        value = "" if frozen.value is None else f" {self._plan.objective} {frozen.value:.4g}"
        reason = f" ({shown(frozen.user_attrs['reason'])})" if "reason" in frozen.user_attrs else ""
        point = "  ".join(f"{path} {shown(setting)}" for path, setting in trial.point.items())
        best = f"  best {groups[0]}" if groups else ""
        line = f"trial {trial.number} {STATES[frozen.state]}{value}{reason}  {finished}/{total}{best}  {point}"
        self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)


def summarize(study: Study) -> None:
    """Prints the best point and how all trials have ended. Raises UserError where all have, none of them well."""
    plan, trials = study.plan, study.trials()
    groups = ranked(plan, trials)
    if groups:
        point = ", ".join(f"{path} {shown(value)}" for path, value in groups[0].point.items())
        print(f"best {plan.objective}: {groups[0]} with {point or from_root(plan.spec)}")
    counts = {name: sum(trial.state == state for trial in trials) for state, name in STATES.items()}
    print(
        ", ".join(f"{count} {name}" for name, count in counts.items() if count) + f"; see {study.folder / 'sweep.md'}"
    )
    if counts["running"] or counts["waiting"]:
        print("the rest is with other processes, or was left by one that died: the same command resumes")
    elif not groups:
        raise UserError(f"no trial of {study.folder} has come to its end: see the reasons in sweep.md")
