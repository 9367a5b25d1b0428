"""The pictures of a finished run: `learning_curves.png`, and `attention.png` for models that translate."""

from typing import Any

import numpy as np

from experiments.experiment import Experiment
from research.analysis.attention import attention_weights
from research.analysis.pictures import attention_heat_maps, learning_curves
from research.data.tokenizer import PAD
from research.tasks.translation import Translation
from research.training.checkpoints import Checkpoints
from research.training.loggers import read_metrics


def draw(experiment: Experiment) -> None:
    """Draws what applies to the experiment into its folder."""
    learning_curves(read_metrics(experiment.folder / "metrics.jsonl"), experiment.folder / "learning_curves.png")
    if isinstance(experiment.task, Translation) and experiment.config.model.name == "seq2seq":
        with Checkpoints(experiment.folder / "checkpoints", experiment.checkpoint, write=False) as checkpoints:
            variables, _ = experiment.variables(checkpoints)
        draw_cross_attention(experiment, variables, experiment.source.examples("validation")[0])


def draw_cross_attention(experiment: Experiment, variables: dict[str, Any], example: dict[str, str]) -> None:
    """The last decoder layer's cross-attention while it writes its own translation of the example."""
    task = experiment.task
    (answer,) = experiment.evaluator.answers(variables, task.questions([example]))
    pair = task.dataset([{"source": example["source"], "target": answer["text"]}], train=False, seed=0)
    batch = pair.batch(np.zeros(1, np.int64), np.zeros(1, np.int64), None)
    weights = attention_weights(experiment.model, variables, *task.model_inputs(batch))
    layer = [path for path in weights if "cross_attention" in path][-1]
    source, target = (batch[side][0][batch[side][0] != PAD] for side in ("source", "target_output"))
    attention_heat_maps(
        weights[layer][0, :, : len(target), : len(source)],
        [task.vocabulary.id_to_token(token) for token in source],
        [task.vocabulary.id_to_token(token) for token in target],
        f"{layer}: {example['source']!r} -> {answer['text']!r}",
        experiment.folder / "attention.png",
    )
