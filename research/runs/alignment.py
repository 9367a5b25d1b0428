"""How well the cross-attention of a trained translation model agrees with people on which words belong together."""

from pathlib import Path

import numpy as np

from research.analysis.alignment import links
from research.analysis.attention import attention_weights
from research.data.plain_text import lines_of, read_text
from research.errors import UserError
from research.files import write_json
from research.metrics.alignment import alignment_scores, read_links
from research.runs.experiment import Experiment
from research.training.checkpoints import Checkpoints


def align(experiment: Experiment, checkpoints: Checkpoints, split: str, file: Path) -> dict[str, dict[str, float]]:
    """The scores of `research.metrics.alignment` by cross-attention layer, whose heads are averaged.

    The model reads each pair of the split and says which source word it attends to most in the steps that write a
    target word. file: the links of these pairs, a line each (`read_links`). Writes `alignment.json`.

    Raises UserError for a task other than translation, for a file that cannot be read, and where it has not as many
    lines as the split has pairs.
    """
    task, examples = experiment.task, experiment.examples(split)
    if not len(examples) or task.words(examples[0]) is None:
        raise UserError(f"--alignments is for translations, and {experiment.folder} is of another task: leave it out")
    lines = lines_of(read_text(str(file)))
    if len(lines) != len(examples):
        raise UserError(
            f"{file} has {len(lines)} lines for {len(examples)} pairs of the {split} split: give a line each"
        )
    right = [read_links(line, f"line {number} of {file}") for number, line in enumerate(lines, 1)]
    variables, step = experiment.variables(checkpoints)
    rows = task.rows(examples, train=False, seed=0)
    plan = experiment.evaluator.plan(rows)
    found: dict[str, list[set]] = {}
    for number in range(int(plan.steps_per_epoch)):
        chosen = plan(number)
        indices = np.where(chosen.indices >= 0, chosen.indices, chosen.indices[0])
        inputs = task.model_inputs(rows.batch(indices, chosen.epochs, chosen.length))
        layers = attention_weights(experiment.model, variables, *inputs)
        for place in np.flatnonzero(chosen.indices >= 0):
            index = int(indices[place])
            words = task.words(examples[index])
            assert words is not None  # as those of the first example are not
            source, target = words
            for path, weights in layers.items():
                if "cross" not in path:
                    continue
                mean = weights[place].mean(axis=0)
                source, target = source[: mean.shape[1]], target[: mean.shape[0]]
                linked = links(mean[: len(target), : len(source)], source, target)
                found.setdefault(path, [set() for _ in right])[index] = linked
    if not found:
        raise UserError(f"model {experiment.config.model.name} has no cross-attention: leave --alignments out")
    scores = {path: alignment_scores(answers, right) for path, answers in found.items()}
    write_json(experiment.folder / "alignment.json", {"split": split, "step": step, "layers": scores})
    return scores
