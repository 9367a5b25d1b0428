"""One config with several seeds: trained together where that can be, with what their results have in common."""

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

from optuna.trial import TrialState

from research.config import load
from research.errors import UserError
from research.files import read_json, write_json
from research.search_space import choice
from research.sweeps.compare import compare, runs_of
from research.sweeps.database import told
from research.sweeps.plan import Plan, direction_of, objective_of
from research.sweeps.progress import Progress
from research.sweeps.results import write_results
from research.sweeps.study import Study, Trial
from research.sweeps.vectorized import Apart, work_together

MOST = 1000

Train = Callable[[str, Path, dict[str, str]], dict[str, float]]
"""Trains a config with overrides in a folder and gives its results."""


def train_seeds(
    spec: str, folder: Path, given: dict[str, str], count: int, train: Train, baseline: Path | None = None
) -> dict[str, dict[str, float]]:
    """Trains the config with the seeds 0 to `count` - 1, prints and returns what comes out, also in `seeds.json`.

    The folder is that of a sweep over the seed (docs/sweeps.md), which resumes. All seeds are trained in one compiled
    program or, where a program cannot hold them (`Apart`), by `train` one after another. baseline: the folder of runs
    with the same seeds, to which the results are compared seed by seed.

    Returns for each metric `mean`, `deviation` (n - 1) and `best`, its value for the seed that validation likes best.
    Raises UserError for less than two seeds, for a baseline that lacks one, and where no seed comes to its end.
    """
    if not 2 <= count <= MOST:
        raise UserError(f"--seeds={count} is out of range: use 2 to {MOST:,}")
    if "seed" in given:
        raise UserError(f"--seeds={count} and --config.seed={given['seed']} contradict each other: leave one out")
    config = load(spec, given)
    objective = objective_of(config)
    metric = _compared(baseline, count, objective) if baseline is not None else None
    file, colon, argument = spec.partition(".py:")
    spec = str(Path(file).resolve()) + colon + argument
    plan = Plan(spec, given, {"seed": choice(range(count))}, objective, direction_of(objective, config))
    with told(), Study(folder, plan) as study:
        _work(study, train)
        write_results(study)
        found = _summary(study)
    write_json(folder / "seeds.json", found)
    for name, values in found.items():
        numbers = f"{values['mean']:.4f} ± {values['deviation']:.4f}, best {values['best']:.4f}"
        print(f"{name} {numbers} (mean ± standard deviation of {values['seeds']} seeds)")
    if baseline is not None:
        print(compare(baseline, folder, metric))
    return found


def _work(study: Study, train: Train) -> None:
    with Progress(study) as progress:
        try:
            work_together(study, progress.say)
            return
        except Apart as reason:
            print(f"one seed after another: {reason}", flush=True)
        while trial := study.claim():
            try:
                _alone(trial, train)
            finally:
                if not study.frozen(trial.number).state.is_finished():
                    trial.release()
            progress.say(trial)


def _alone(trial: Trial, train: Train) -> None:
    try:
        results = train(trial.spec, trial.folder, trial.overrides)
    except UserError as error:  # such as one that diverges; what is wrong with all of them was said before
        trial.fail(str(error))
    else:
        trial.book(results)


def _summary(study: Study) -> dict[str, dict[str, float]]:
    trials = [trial for trial in study.trials() if trial.state == TrialState.COMPLETE]
    if len(trials) < 2:
        raise UserError(f"{len(trials)} of the seeds of {study.folder} came to an end: see the reasons in sweep.md")
    runs = [read_json(study.trial_folder(trial.number) / "results.json", dict[str, float]) for trial in trials]
    values = [trial.value or 0.0 for trial in trials]
    best = values.index(min(values) if study.plan.direction == "minimize" else max(values))
    return {name: _statistics([run[name] for run in runs], best) for name in sorted(runs[0])}


def _statistics(values: list[float], best: int) -> dict[str, float]:
    spread = statistics.stdev(values)
    return {"mean": statistics.fmean(values), "deviation": spread, "best": values[best], "seeds": len(values)}


def _compared(baseline: Path, count: int, objective: str) -> str:
    """The metric to compare: the objective on the test split, if the baseline has one. Refuses what makes no pairs."""
    if (baseline / "config.json").exists():
        raise UserError(f"--baseline={baseline} is a single run: train it with --seeds={count}, and give that folder")
    runs = runs_of(baseline)
    if len(runs) != count:
        raise UserError(f"--baseline={baseline} has {len(runs)} finished runs: use --seeds={len(runs)}")
    results: Mapping[str, float] = read_json(runs[0] / "results.json", dict[str, float])
    wanted = (objective.replace("validation/", "test/", 1), objective)
    metric = next((name for name in wanted if name in results), None)
    if metric is None:
        raise UserError(f"--baseline={baseline} has no result {objective}: use the runs of a task that measures it")
    return metric
