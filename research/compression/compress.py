"""Candidates of a run, made, trained and measured: what `experiments.compress` does."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from research.analysis import cost
from research.analysis.latency import measure
from research.compression import start
from research.compression.frontier import ORIGINAL, Goals, Measured, chosen, picture, points_lost, report, table
from research.compression.methods import DEFAULT, Candidate, parse
from research.config import read_config
from research.errors import UserError
from research.files import read_json, write_json, write_text
from research.locks import holder, try_lock
from research.parallel.mesh import batch_ways, place_batch
from research.runs.experiment import Experiment, open_run
from research.runs.folder import keep_results
from research.runs.predictor import Predictor
from research.sweeps.plan import direction_of
from research.tasks.task import Task
from research.training.evaluation import Evaluator
from research.training.fingerprint import checksum, contents

BATCHES = (1, 8)
"""Inputs that are answered at once where latency is measured."""
ROUNDS = 20
SETTINGS = "compress.json"
"""In the folder of all candidates: what they are made of, which a later start may not change."""
SENSIBLE = ("accuracy", "exact_match", "f1", "bleu", "mean_iou", "loss")
"""Metrics that say what a model is worth, the first that is measured."""

type Train = Callable[[ConfigDict, Path], Any]


def compress(
    folder: Path,
    output: Path,
    goals: Goals,
    train: Train,
    *,
    names: Sequence[str] = (),
    metric: str | None = None,
    duration: Mapping[str, Any] | None = None,
) -> tuple[Measured | None, str]:
    """Makes, trains and measures candidates of the run `folder`, each a run's folder in `output`; the frontier beside.

    names: of the candidates (`methods`), those of `DEFAULT` that fit the model unless given. metric: such as
    "test/accuracy". duration: of a candidate's training, such as {"steps": 300}. What an earlier start finished is
    kept. Returns the candidate that the goals ask for, or None, and a sentence. Raises UserError for a run that cannot
    be made smaller, and for an `output` with other files or with candidates of another run.
    """
    candidates = [parse(name) for name in names or DEFAULT]
    original = start.Original.open(folder)
    if type(original.experiment.task).predict is Task.predict:
        raise UserError(f"the task of {folder} answers nothing, so that there is no latency: give another run")
    split, name, lower = _metric(original.experiment, metric)
    output.mkdir(parents=True, exist_ok=True)
    lock = try_lock(output / ".lock", patient=True)
    if lock is None:
        raise UserError(f"{output} is being written by another process ({holder(output / '.lock') or 'just started'})")
    with lock:
        _claim(output, original, duration)
        made = _made(original, candidates, output, train, duration, strict=bool(names))
        runs = {ORIGINAL: folder} | {each: output / each for each in made}
        rows = measured(runs, split, name, lower=lower)
        shown = f"{split}/{name}"
        write_json(output / "frontier.json", report(rows, shown))
        write_text(output / "frontier.md", table(rows, shown))
        picture(rows, shown, output / "frontier.png")
    print(table(rows, shown), end="")
    return chosen(rows, goals)


def _metric(experiment: Experiment, metric: str | None) -> tuple[str, str, bool]:
    """Split and name of the metric, which are printed, and whether less of it is better.

    Raises UserError for a split that the data do not have, and for a metric that is not measured.
    """
    splits = [split for split in experiment.source.splits if split != "train"]
    asked = metric or (experiment.config.get("checkpoint") or {}).get("best")
    if not splits:
        raise UserError("the data have nothing but train, so that there is nothing to measure: give a test split")
    split, _, name = (asked or ("test/" if "test" in splits else f"{splits[-1]}/")).partition("/")
    if split not in splits:
        raise UserError(f"--metric={asked} is not a metric of a split: use one such as {splits[-1]}/loss")
    examples, evaluator = experiment.examples(split), experiment.evaluator
    known = {*evaluator.trace_metrics(_abstract(experiment), evaluator.split(examples).rows)}
    known |= {*experiment.task.score_names(examples)}
    name = name or next(one for one in SENSIBLE if one in known)
    if name.partition("/")[0] not in known:
        raise UserError(f"--metric={asked} is not measured: use {split}/ and one of {', '.join(sorted(known))}")
    print(f"quality is {split}/{name}", flush=True)
    return split, name, _less_is_better(f"{split}/{name}", experiment)


def _less_is_better(metric: str, experiment: Experiment) -> bool:
    try:
        return direction_of(metric, experiment.config) == "minimize"
    except UserError:
        raise UserError(f"--metric={metric} does not say whether more of it is better: use another") from None


def _abstract(experiment: Experiment) -> dict[str, Any]:
    state = jax.eval_shape(experiment.create_state(None), {})
    return {"params": state.params, **state.model_state}


def _claim(output: Path, original: start.Original, duration: Mapping[str, Any] | None) -> None:
    """Notes what the candidates are made of. Raises UserError where others are there."""
    asked: dict[str, Any] = {"run": str(original.experiment.folder.absolute()), "step": original.step}
    asked |= {"crc": checksum(contents(original.variables)), "duration": json.loads(json.dumps(duration))}
    path = output / SETTINGS
    if path.exists():
        before = read_json(path)
        if differing := [name for name, value in asked.items() if before.get(name) != value]:
            raise UserError(f"{output} holds candidates of another {differing[0]}: use another --output")
    elif any(not file.name.startswith(".lock") for file in output.iterdir()):
        raise UserError(f"{output} holds other files: give --output a new or empty folder")
    write_json(path, asked)


def _made(
    original: start.Original,
    candidates: Sequence[Candidate],
    output: Path,
    train: Train,
    duration: Mapping[str, Any] | None,
    *,
    strict: bool,
) -> list[str]:
    """The names of the candidates that are there now, complete.

    strict: what does not fit the model is an error; otherwise it is left out, with a line.
    """
    shapes: dict[str, Any] = {}
    left: set[str] = set()
    made: list[str] = []
    for candidate in _with_trained(candidates):
        source = candidate.trained
        if source in left:
            continue
        if candidate.fractions and candidate.weights is None:
            try:
                _, arrays = start.smaller(original, candidate, sizes=True)
            except UserError as error:
                if strict:
                    raise
                print(f"without {candidate.name}: {error}", flush=True)
                left.add(candidate.name)
                continue
            same = next((name for name, others in shapes.items() if start.equal(arrays, others)), None)
            if same is not None and not strict:
                print(f"without {candidate.name}: it is what {same} is", flush=True)
                left.add(candidate.name)
                continue
            shapes[candidate.name] = arrays
        _make(original, candidate, output, train, duration)
        made.append(candidate.name)
    return made


def _with_trained(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates, each once, those before them whose weights they are."""
    found: dict[str, Candidate] = {}
    for candidate in candidates:
        if candidate.trained is not None and candidate.weights is not None:
            found.setdefault(candidate.trained, parse(candidate.trained))
        found.setdefault(candidate.name, candidate)
    return list(found.values())


def _make(
    original: start.Original, candidate: Candidate, output: Path, train: Train, duration: Mapping[str, Any] | None
) -> None:
    """Makes a candidate's folder unless it is there, and trains it to its end where it is one that is trained."""
    folder = output / candidate.name
    there = folder.exists()
    if candidate.weights is None:
        print(f"\n{candidate.name}", flush=True)
        if not there:
            start.start(original, candidate, folder, duration)
        train(read_config(folder / "config.json"), folder)
    elif not there:
        source = output / candidate.trained if candidate.trained else original.experiment.folder
        start.store(original, candidate, source, folder)


def measured(runs: Mapping[str, Path], split: str, metric: str, *, lower: bool) -> list[Measured]:
    """The figures of runs by their names, all on the same examples, the first of which the others are compared with.

    Latencies are medians of answers in turns, each model's program compiled for one input and for eight. Raises
    UserError for a metric that is not measured.
    """
    predictors = {name: Predictor.of(open_run(folder)) for name, folder in runs.items()}
    examples = open_run(next(iter(runs.values()))).examples(split)
    qualities: dict[str, float] = {}
    for name, predictor in predictors.items():
        found = predictor.evaluator.measure(predictor.kept, predictor.evaluator.split(examples))
        if metric not in found:
            raise UserError(f"--metric={split}/{metric} is not measured: use {split}/ and one of {', '.join(found)}")
        qualities[name] = found[metric]
        print(f"{name} {split}/{metric} {found[metric]:.4f}", flush=True)
        if not (runs[name] / "results.json").exists():
            keep_results(runs[name], {f"{split}/{each}": value for each, value in found.items()})
    few = [examples[index] for index in range(min(max(BATCHES), len(examples)))]
    calls: dict[tuple[str, int], Callable[[], Any]] = {}
    temporaries: dict[str, int] = {}
    for name, predictor in predictors.items():
        for batch in BATCHES:
            calls[name, batch], compiled = _compiled(predictor.evaluator, predictor.kept, few, batch)
            temporaries.setdefault(name, cost.memory(compiled).temporaries)
    seconds = {key: float(np.median(values)) for key, values in measure(calls, ROUNDS).items()}
    first = next(iter(runs))
    rows = []
    for name, predictor in predictors.items():
        size = cost.total_bytes(predictor.kept)
        figures = {
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(predictor.variables["params"])),
            "size": size,
            "memory": size + temporaries[name],
            "seconds": {batch: seconds[name, batch] for batch in BATCHES},
        }
        points = points_lost(qualities[name], qualities[first], lower=lower)
        rows.append(Measured(name, qualities[name], points, **figures))
    return rows


def _compiled(
    evaluator: Evaluator, variables: Mapping[str, Any], examples: Sequence[Any], batch: int
) -> tuple[Callable[[], Any], jax.stages.Compiled]:
    """A call that answers a batch of the first examples' rows, repeated where they are fewer, and its program."""
    rows = evaluator.split(examples).questions.first(batch)
    batch = -(-batch // batch_ways(evaluator.mesh)) * batch_ways(evaluator.mesh)
    places = np.resize(np.arange(len(next(iter(rows.values())))), batch)
    arrays = {name: array[places] for name, array in rows.items()} | {"weight": np.ones(batch, np.float32)}
    placed = place_batch(arrays, evaluator.mesh)
    compiled = jax.jit(evaluator.inference.predict).lower(variables, placed).compile()
    return functools.partial(compiled, variables, placed), compiled
