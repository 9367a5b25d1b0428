"""Measures what a trained image model's features are worth: `python -m experiments.probe --workdir=FOLDER`.

The model stays as it is, without its head; on its pooled features of the training images are fitted a linear classifier
(logistic regression), nearest neighbours by cosine similarity, and a linear classifier by least squares on a few images
of each class. `--random` measures the same model untrained, which says how much of it is the training's merit.
"""

import argparse
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from research.data.loader import Batches, load
from research.data.plans import InOrder
from research.errors import UserError
from research.files import write_json
from research.parallel.mesh import place_batch
from research.runs.command import add_plugin, run_command
from research.runs.experiment import Experiment, open_run
from research.training.checkpoints import Checkpoints

BATCH_SIZE = 256
NEIGHBOURS = 10


def features(experiment: Experiment, variables: Mapping[str, Any], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features, float32 [images, width], and labels [images] of a split."""
    examples = experiment.examples(split)
    dataset = experiment.task.questions(examples)
    model = experiment.model
    pooled = "pooled_features" if hasattr(model, "pooled_features") else None
    model = model if pooled else model.clone(num_classes=0)

    @jax.jit
    def apply(batch):
        return model.apply(variables, experiment.task.model_inputs(batch)[0], method=pooled)

    batches = Batches.on_mesh(
        dataset, InOrder(len(dataset), BATCH_SIZE), -(-len(dataset) // BATCH_SIZE), experiment.mesh
    )
    place = functools.partial(place_batch, mesh=experiment.mesh)
    rows = np.concatenate([np.asarray(apply(batch), np.float32) for batch in load(batches, 0, place)])
    labels = np.array([examples[index]["label"] for index in range(len(examples))])
    return rows[: len(examples)], labels


def probe(experiment: Experiment, *, random: bool, labels: float, shots: int) -> dict[str, float]:
    """Test accuracies `{"linear": ..., "neighbours": ..., "<shots>-shot": ...}`.

    random: an untrained model in place of the trained one. labels: share of the training labels that is used.
    """
    # Seconds of import that only this command should cost.
    from sklearn.linear_model import LogisticRegression, RidgeClassifier
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if random:
        state = experiment.run.create_state()
        variables = state.variables()
    else:
        with Checkpoints(experiment.folder / "checkpoints", experiment.checkpoint, write=False) as checkpoints:
            variables, _ = experiment.variables(checkpoints)
    train, train_labels = features(experiment, variables, "train")
    test, test_labels = features(experiment, variables, "test")
    generator = np.random.default_rng(experiment.seed)
    kept = np.sort(generator.permutation(len(train))[: max(round(labels * len(train)), 1)])
    train, train_labels = train[kept], train_labels[kept]
    if len(np.unique(train_labels)) < 2:
        raise UserError(f"--labels {labels} leaves {len(train)} images of one class: use a larger share")
    by_class = [np.flatnonzero(train_labels == label)[:shots] for label in np.unique(train_labels)]
    few = np.concatenate(by_class)
    classifiers = {
        "linear": (make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)), slice(None)),
        "neighbours": (KNeighborsClassifier(min(NEIGHBOURS, len(train)), metric="cosine"), slice(None)),
        f"{shots}-shot": (make_pipeline(StandardScaler(), RidgeClassifier()), few),
    }
    return {
        name: float(classifier.fit(train[rows], train_labels[rows]).score(test, test_labels))
        for name, (classifier, rows) in classifiers.items()
    }


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    if not 0 < arguments.labels <= 1:
        raise UserError(f"--labels {arguments.labels} is no share: use more than 0 and at most 1")
    experiment = open_run(Path(arguments.workdir))
    if "image" not in experiment.sample_batch:
        raise UserError(f"{arguments.workdir} holds no model of images: give one that was trained on images")
    if "test" not in experiment.source.splits:
        raise UserError("the data have no test split to measure on: set data.test_path")
    results = probe(experiment, random=arguments.random, labels=arguments.labels, shots=arguments.shots)
    name = "probe_random" if arguments.random else "probe"
    write_json(experiment.folder / f"{name}.json", {"labels": arguments.labels, **results})
    for name, accuracy in results.items():
        print(f"{name} {accuracy:.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m experiments.probe", description=__doc__)
    parser.add_argument("--workdir", required=True, help="the run's folder")
    parser.add_argument("--random", action="store_true", help="measure the untrained model")
    parser.add_argument("--labels", type=float, default=1.0, help="share of the training labels to use (default: all)")
    parser.add_argument("--shots", type=int, default=5, help="images of each class for the few-shot figure")
    add_plugin(parser)
    run_command(main, parser)
