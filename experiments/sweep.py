"""Searches settings: `python -m experiments.sweep --config=FILE.py --workdir=FOLDER --trials=N`; docs/sweeps.md.

The same command resumes a sweep, and as many of them as are started work on it together.
"""

import argparse
import sys
from pathlib import Path

import jax

from research.config import load
from research.errors import UserError
from research.runs.command import run_command
from research.search_space import Choice
from research.sweeps.database import told
from research.sweeps.launchers import LocalLauncher
from research.sweeps.pictures import draw
from research.sweeps.plan import PRUNERS, SAMPLERS, Plan, direction_of, objective_of
from research.sweeps.progress import Progress, summarize
from research.sweeps.results import write_results
from research.sweeps.space import check_space, plain, read_space
from research.sweeps.study import Study
from research.sweeps.worker import work

LAUNCHERS = ("local", "ray", "slurm", "vectorized")


def plan_of(arguments: argparse.Namespace) -> Plan:
    """The plan that the command line describes. Raises UserError for what is wrong with it."""
    space = read_space(arguments.config, arguments.swept, arguments.seeds)
    check_space(arguments.config, arguments.overrides, space)
    config = load(arguments.config, arguments.overrides)
    objective = arguments.objective or objective_of(config)
    direction = arguments.direction or direction_of(objective, config)
    listed = all(isinstance(plain(dimension), Choice) for dimension in space.values())
    sampler = arguments.sampler or ("grid" if listed else "random")
    file, colon, argument = arguments.config.partition(".py:")
    spec = str(Path(file).resolve()) + colon + argument  # trials start at the root of the repository
    return Plan(spec, arguments.overrides, space, objective, direction, sampler, arguments.pruner, arguments.trials)


def sweep(study: Study, arguments: argparse.Namespace) -> None:
    """Runs what is left of the sweep, and writes what it found."""
    with Progress(study) as progress:
        if arguments.launcher == "slurm":
            from research.sweeps.slurm_launcher import submit

            jobs = arguments.workers or 1
            options = [*_shared(sys.argv[1:]), f"--config={study.plan.spec}", f"--workdir={study.folder}"]
            submit(options, study.folder, jobs, arguments.cpus, arguments.gpus, progress.show)
        elif arguments.launcher == "ray":
            from research.sweeps.ray_launcher import RayLauncher

            work(study, RayLauncher(arguments.workers, arguments.cpus, arguments.gpus), progress.say)
        elif arguments.launcher == "vectorized":
            from research.sweeps.vectorized import work_together

            work_together(study, progress.say)
        else:
            work(study, LocalLauncher(arguments.workers), progress.say)
    write_results(study)
    draw(study)
    summarize(study)


def _shared(options: list[str]) -> list[str]:
    """The options that jobs of an array have in common."""
    kept, names = [], ("--launcher", "--workers", "--cpus", "--gpus")
    iterator = iter(options)
    for option in iterator:
        name, separator, _ = option.partition("=")
        if name not in names:
            kept.append(option)
        elif not separator:
            next(iterator)
    return kept


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    if not (arguments.config and arguments.workdir):
        raise UserError("a sweep needs --config=FILE.py and --workdir=FOLDER: give both")
    if arguments.launcher != "vectorized":
        jax.config.update("jax_platforms", "cpu")  # the accelerators are the trials'
    with told(), Study(Path(arguments.workdir), plan_of(arguments), arguments.storage) as study:
        sweep(study, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.sweep", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add(
        "--config", metavar="FILE.py[:ARGUMENT]", help="the experiment; --config.section.key=value holds for all trials"
    )
    add("--sweep.PATH", metavar="V1,V2", help="values to try for a path; all of these take the place of sweep()")
    add("--workdir", help="the sweep's folder; the same command resumes what is there, or joins in")
    add("--trials", type=int, help="how many in all (when not given: the whole grid)")
    add("--launcher", choices=LAUNCHERS, default="local", help="where trials run (default: local)")
    add("--workers", type=int, default=0, help="trials at a time (when not given: one for each accelerator, or 1)")
    add("--cpus", type=int, default=1, help="of a trial on Ray or SLURM (default: 1)")
    add("--gpus", type=int, default=0, help="of a trial on Ray or SLURM (default: 0)")
    add("--sampler", help=f"{', '.join(SAMPLERS)} (when not given: grid, or random if a path is a range)")
    add("--pruner", default="none", help=f"who gives up bad trials early: {', '.join(PRUNERS)} (default: none)")
    add("--objective", help="the metric (when not given: checkpoint.best, expect.metric or validation/loss)")
    add("--direction", choices=("minimize", "maximize"), help="when the metric's name does not say it")
    add("--seeds", type=int, help="seeds that every point is repeated with")
    add("--storage", help="URL of the study's database (when not given: study.db in the folder)")
    return parser


if __name__ == "__main__":
    run_command(main, _parser())
