"""Measures splits of a run, and shows some of its answers."""

from collections.abc import Mapping, Sequence
from typing import Any

from research.runs.experiment import Experiment
from research.training.checkpoints import Checkpoints


def evaluate(
    experiment: Experiment, checkpoints: Checkpoints, splits: Sequence[str], *, samples: int = 0
) -> dict[str, float]:
    """`{"<split>/<metric>": value}` at the best or latest checkpoint; prints `samples` answers of the last split."""
    variables, step = experiment.variables(checkpoints)
    print(f"evaluating {', '.join(splits)} at step {step}", flush=True)
    results: dict[str, float] = {}
    for split in splits:
        examples = experiment.examples(split)
        metrics = experiment.evaluator.score(variables, examples)
        results |= {f"{split}/{name}": value for name, value in metrics.items()}
    if samples and splits:
        _show(experiment, variables, splits[-1], samples)
    return results


def samples_of(experiment: Experiment, split: str, count: int) -> list[Mapping[str, Any]]:
    """The examples that are shown with the model's answers; for running text its beginning, to be continued."""
    examples = experiment.source.examples(split)
    chosen = [examples[index] for index in range(min(count, len(examples)))]
    if chosen and "text" in chosen[0]:
        prompt = experiment.task.beginning(chosen[0]["text"])
        return [] if prompt is None else [{"text": prompt}]
    return chosen


def _show(experiment: Experiment, variables: dict, split: str, count: int) -> None:
    """Questions, answers and references side by side, for tasks whose answers are texts or labels."""
    chosen = samples_of(experiment, split, count)
    if not chosen:
        return
    answers = experiment.evaluator.answers(variables, experiment.task.questions(chosen))
    for example, answer in zip(chosen, answers, strict=True):
        text = answer.get("text", answer.get("label"))
        if "source" in example:
            mark = "=" if text == example["target"] else "x"
            print(f"{mark} {example['source']!r}\n  -> {text!r}" + ("" if mark == "=" else f" ({example['target']!r})"))
        elif "label" in example:
            names = getattr(experiment.task, "class_names", None)  # tasks that make their own labels have none
            print(f"{names[example['label']]!r} -> {text!r}" if names else repr(text))
        else:
            print(f"{example['text']!r} -> {text!r}")
