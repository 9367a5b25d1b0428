"""A run from its config to its results and its report."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from research.config import diff, load
from research.data.plans import Bucketed
from research.errors import UserError
from research.files import read_json, write_json
from research.hub import PREFIX
from research.parallel.mesh import check_batch_size
from research.reports.live import live_report, record_samples
from research.reports.pictures import draw
from research.runs.checks import check_before_training
from research.runs.evaluation import evaluate
from research.runs.experiment import Experiment, build_experiment
from research.runs.folder import Data, check_data, claim, data_of, keep_results, leg_of, write_manifest
from research.runs.sections import later, moved
from research.training.checkpoints import Checkpoints
from research.training.fitting import choose_micro_batches
from research.training.interruptions import Interruptions
from research.training.loop import fit
from research.training.trackers import Tracked, check_installed


def train(
    config_spec: str, folder: Path, overrides: dict[str, str], source: str | None = None, *, whole: bool = False
) -> dict[str, float]:
    """Runs the experiment to its end in `folder` and returns its results, `{"<split>/<metric>": value}`.

    source, whole: what it starts from, and whether with that run's whole state (`Transfer`).
    """
    config = load(config_spec, overrides)
    if source is not None:
        if not source.startswith(PREFIX):
            source = os.path.abspath(os.path.expanduser(source))
        given = {"source": source, "whole": whole}
        config.transfer = (dict(config.transfer) if "transfer" in config else {"new": []}) | given
    elif whole:
        raise UserError("--whole takes over a run's whole state: say with --from=RUN which")
    return train_config(config, folder, config_spec, diff(load(config_spec), config))


def train_config(config: ConfigDict, folder: Path, spec: str = "", changes: Sequence = ()) -> dict[str, float]:
    """`train` of a config that is read already. spec, changes: its file, and in what it differs from that."""
    with claim(folder, config, later(config), moved(config)) as claimed, Interruptions(), live_report(folder):
        if claimed.complete and not claimed.moved:
            return _complete(folder)
        experiment = build_experiment(config, folder)
        if experiment.tracker is not None and jax.process_index() == 0:
            check_installed(experiment.tracker)
        data = _compared(experiment, claimed.moved) if jax.process_index() == 0 else {}
        if experiment.options.accumulate == "auto":
            options = dataclasses.replace(experiment.options, accumulate=choose_micro_batches(experiment.run))
            experiment = dataclasses.replace(experiment, options=options)
            if options.batch_size is not None:
                check_batch_size(options.batch_size, experiment.mesh, options.micro_batches, "training.batch_size")
        if not claimed.complete:
            check_before_training(experiment)
        claimed.keep()
        if claimed.complete:
            return _complete(folder)
        if jax.process_index() == 0:
            write_manifest(folder, experiment.seed, data, spec, changes, leg_of(folder, config))
        tracker = experiment.tracker if jax.process_index() == 0 else None
        values = {path: value for path, _, value in diff({}, experiment.config)}
        with Tracked(tracker, folder, values) as tracked:
            return _train(experiment, tracked)


def _complete(folder: Path) -> dict[str, float]:
    print(f"this run is complete: {folder}")
    results = read_json(folder / "results.json", dict[str, float])
    _report(results)
    return results


def _compared(experiment: Experiment, elsewhere: bool) -> Data:
    """The data as the manifest has them, compared with those of earlier starts; says what of them is left out.

    elsewhere: the data lie elsewhere than before, and all of them have to be the same.
    """
    experiment.examples("train")  # refuses data of other classes, of which more can be said than that they changed
    data = data_of(experiment.source)
    for split in data.values():
        print(*split["left_out"], sep="\n", end="\n" * bool(split["left_out"]))
    learnt = {*data} if elsewhere else {"train"} | ({"validation"} if experiment.checkpoint.best else set())
    check_data(experiment.folder, data, learnt)
    return data


def _train(experiment: Experiment, tracked: Tracked) -> dict[str, float]:
    folder, run = experiment.folder, experiment.run
    parameters = sum(leaf.size for leaf in jax.tree.leaves(run.abstract_state.params))
    devices = jax.devices()
    print(f"{experiment.config.model.name}, {parameters:,} parameters, on {len(devices)} x {devices[0].device_kind}")
    options = experiment.options
    batch = f"{options.batch_size} examples" if options.batch_size else f"{options.batch_tokens} tokens"
    if options.micro_batches > 1:
        batch += f" in {options.micro_batches} micro-batches"
    total, rate = len(run.batches), run.learning_rate
    print(f"{total} steps of {batch}{_padding(experiment)}, into {folder}", flush=True)
    if float(rate(total - 1)) > float(rate(total // 2)):
        print("the learning rate still rises at the last step: schedule.warmup is as long as the run", flush=True)
    with Checkpoints(folder / "checkpoints", experiment.checkpoint) as checkpoints:
        state, timing = fit(run, checkpoints, tracked)
    with Checkpoints(folder / "checkpoints", experiment.checkpoint) as checkpoints:
        results = evaluate(experiment, checkpoints, [s for s in experiment.source.splits if s != "train"], samples=5)
    if jax.process_index() == 0:
        write_json(folder / "timing.json", timing.report())
        if jax.process_count() == 1:  # pictures need the whole model in one process; experiments.pictures draws later
            _show(experiment)
        scorer = experiment.task.scorer()
        if scorer is not None and (signatures := scorer.signatures()):
            write_json(folder / "signatures.json", signatures)
        keep_results(folder, results)
        tracked.write(int(state.step), results)
    print("time: " + ", ".join(f"{name} {value:.3g}" for name, value in timing.report().items()))
    _report(results)
    return results


def _show(experiment: Experiment) -> None:
    """Draws the run and records samples of it; what goes wrong with that is one line and not the run's trouble."""
    try:
        draw(experiment, data=True)
    except Exception as error:
        print(f"warning: {experiment.folder} has no pictures: {error}", file=sys.stderr)
    record_samples(experiment)


def _padding(experiment: Experiment) -> str:
    plan = experiment.run.batches.plan
    return f", {plan.padding:.1%} of them padding" if isinstance(plan, Bucketed) else ""


def _report(results: dict[str, float]) -> None:
    for name, value in sorted(results.items()):
        print(f"{name} {value:.4f}")
