"""Trains an experiment, or resumes one: `python -m experiments.train --config=FILE.py --workdir=FOLDER`."""

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path

import jax

from research.config import load, to_json
from research.errors import UserError
from research.parallel.processes import start_processes
from research.reports.training import train
from research.runs.command import add_config, run_command
from research.runs.experiment import build_experiment
from research.runs.overfit import overfit
from research.runs.prove_resume import prove_resume


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    start_processes()
    quiet = contextlib.redirect_stdout(io.StringIO()) if jax.process_index() else contextlib.nullcontext()
    with quiet:  # process 0 speaks for all
        if arguments.overfit is not None or arguments.prove_resume is not None:
            _try_out(arguments)
            return
        if arguments.workdir is None:
            raise UserError("a run needs a folder: give --workdir=FOLDER")
        folder, source = Path(arguments.workdir), getattr(arguments, "from")
        if arguments.seeds is not None:
            _train_seeds(arguments, folder)
            return
        if arguments.baseline:
            raise UserError("--baseline is what several seeds are compared with: add --seeds=5")
        train(arguments.config, folder, arguments.overrides, source, whole=arguments.whole)


def _train_seeds(arguments: argparse.Namespace, folder: Path) -> None:
    if jax.process_count() > 1:
        raise UserError("--seeds trains in one process: start one")
    if getattr(arguments, "from") or arguments.whole:
        raise UserError("--from and --whole are for a single run: for --seeds give the config a section transfer")
    from research.sweeps.seeds import train_seeds  # Optuna takes a second to import

    baseline = Path(arguments.baseline) if arguments.baseline else None
    train_seeds(arguments.config, folder, arguments.overrides, arguments.seeds, train, baseline)


def _try_out(arguments: argparse.Namespace) -> None:
    """Checks before a run is paid for, in a scratch folder. Raises UserError for what belongs to a real run."""
    for option in ("workdir", "from", "whole", "seeds", "baseline"):
        if getattr(arguments, option):
            raise UserError(f"--{option} has no meaning beside --overfit and --prove-resume: leave it out")
    for option, count in (("--overfit", arguments.overfit), ("--prove-resume", arguments.prove_resume)):
        if count is not None and count < 1:
            raise UserError(f"{option} is {count}: use 1 or more")
    config = load(arguments.config, arguments.overrides)
    if arguments.prove_resume and config.training.get("accumulate") == "auto":
        raise UserError("--prove-resume compares bits: set training.accumulate to a number")
    if arguments.prove_resume and "tracker" in config:
        raise UserError("--prove-resume would leave records of its own: leave the section tracker out")
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.overfit:
            experiment = build_experiment(config, Path(scratch))
            print(*overfit(experiment, arguments.overfit), sep="\n", flush=True)
        if arguments.prove_resume:
            overrides = [f"--config.{path}={value}" for path, value in arguments.overrides.items()]
            command = [f"--config={arguments.config}", *overrides]
            checkpoint = json.loads(to_json(config.get("checkpoint") or {}))
            print(prove_resume(command, checkpoint, Path(scratch), arguments.prove_resume))


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(prog="python -m experiments.train", description=__doc__)
    add_config(options)
    options.add_argument("--workdir", help="the run's folder; the same command resumes what is there")
    options.add_argument(
        "--from", metavar="RUN", help="start with the weights of a run or of a .safetensors file, by name"
    )
    options.add_argument("--whole", action="store_true", help="with --from: its optimizer's state and its step too")
    options.add_argument("--seeds", type=int, metavar="N", help="train the seeds 0 to N-1; --workdir is that of all")
    options.add_argument(
        "--baseline", metavar="FOLDER", help="with --seeds: compare with the runs of these seeds in another folder"
    )
    options.add_argument(
        "--overfit", type=int, metavar="N", help="only check that the first N examples can be learnt by heart"
    )
    options.add_argument(
        "--prove-resume", type=int, metavar="K", help="only check that a run killed K times ends with the same bits"
    )
    return options


if __name__ == "__main__":
    run_command(main, parser())
