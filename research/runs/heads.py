"""What each attention head of a trained model is worth: a score of the model without it."""

from collections.abc import Mapping
from typing import Any

from research.analysis.heads import attention_layers, without_head
from research.errors import UserError
from research.files import write_json, write_text
from research.runs.experiment import Experiment
from research.training.checkpoints import Checkpoints


def ablate_heads(experiment: Experiment, checkpoints: Checkpoints, split: str, metric: str) -> Mapping[str, Any]:
    """Measures a split once with all heads and once without each, as Michel et al. 2019 (section 3.2) do.

    Writes `heads.json` and the table `heads.md` into the run's folder. Returns {"metric": "<split>/<metric>", "whole":
    its value, "without": {layer: [its value without each head]}}. Raises UserError for a metric that is not measured,
    and for a model without attention heads.
    """
    variables, step = experiment.variables(checkpoints)
    layers = attention_layers(variables["params"])
    if not layers:
        raise UserError(f"model {experiment.config.model.name} has no attention heads: leave --heads out")
    evaluator = experiment.evaluator
    part = evaluator.split(experiment.examples(split))
    sums = evaluator.metrics(variables, part.rows)
    scored = metric not in sums

    def measured(variables: Mapping[str, Any]) -> dict[str, float]:
        return evaluator.scores(variables, part) if scored else evaluator.metrics(variables, part.rows)

    whole = measured(variables) if scored else sums
    if metric not in whole:
        raise UserError(f"--heads={metric} is not measured: use one of {', '.join({**sums, **whole})}")
    without = {
        path: [measured(without_head(variables, layer, head))[metric] for head in range(layer.num_heads)]
        for path, layer in layers.items()
    }
    found = {"metric": f"{split}/{metric}", "step": step, "whole": whole[metric], "without": without}
    write_json(experiment.folder / "heads.json", found)
    write_text(experiment.folder / "heads.md", table(found))
    return found


def table(found: Mapping[str, Any]) -> str:
    """What changes without each head, as a Markdown table with a row for each layer."""
    most = max(map(len, found["without"].values()))
    lines = [
        f"{found['metric']} is {found['whole']:.4f} with all heads; without one of them it changes by",
        "",
        "| layer | " + " | ".join(f"head {number}" for number in range(1, most + 1)) + " |",
        "|" + " --- |" * (most + 1),
    ]
    for layer, values in found["without"].items():
        cells = [f"{value - found['whole']:+.4f}" for value in values]
        lines.append(f"| {layer} | " + " | ".join([*cells, *[""] * (most - len(cells))]) + " |")
    return "\n".join(lines) + "\n"
