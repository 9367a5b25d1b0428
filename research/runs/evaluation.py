"""Measures splits of a run, and shows some of its answers."""

from collections.abc import Mapping, Sequence
from typing import Any

from research.runs.experiment import Experiment
from research.runs.predictor import Predictor
from research.training.checkpoints import Checkpoints
from research.training.evaluation import check_finite


def evaluate(
    experiment: Experiment, checkpoints: Checkpoints, splits: Sequence[str], *, samples: int = 0
) -> dict[str, float]:
    """`{"<split>/<metric>": value}` at the best or latest checkpoint; prints `samples` answers of the last split.

    Raises UserError for a metric that is not finite.
    """
    variables, step = experiment.kept_variables(checkpoints)
    print(f"evaluating {', '.join(splits)} at step {step}", flush=True)
    results: dict[str, float] = {}
    for split in splits:
        metrics = experiment.evaluator.measure(variables, experiment.evaluator.split(experiment.examples(split)))
        check_finite(metrics)
        results |= {f"{split}/{name}": value for name, value in metrics.items()}
    if samples and splits:
        task, predictor = experiment.task, Predictor(experiment.evaluator, variables, step)
        chosen = task.shown(experiment.examples(splits[-1]), samples)
        for example, answer in zip(chosen, predictor.answers(chosen), strict=True):
            print(line(task.sample(example, answer)))
    return results


def line(sample: Mapping[str, Any]) -> str:
    """What was asked, what was answered and, where they differ, what is right."""
    asked = sample.get("source", sample.get("prompt"))
    answer, right = sample.get("label", sample.get("answer")), sample.get("reference")
    mark = "" if right is None else "= " if answer == right else "x "
    question = "" if asked is None else f"{asked!r}\n  -> "
    return f"{mark}{question}{answer!r}" + (f" ({right!r})" if mark == "x " else "")
