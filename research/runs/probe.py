"""What the features of a trained image model are worth to simple classifiers."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from research.data.loader import Batches, load
from research.data.plans import InOrder
from research.errors import UserError
from research.models.contract import PooledFeatures
from research.parallel.mesh import place_batch
from research.runs.experiment import Experiment
from research.training.checkpoints import Checkpoints

BATCH_SIZE = 256
NEIGHBOURS = 10


def features(experiment: Experiment, variables: Mapping[str, Any], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features, float32 [images, width], and labels [images] of a split."""
    examples, task, model = experiment.examples(split), experiment.task, experiment.model
    dataset = task.questions(examples)
    pooled = "pooled_features" if isinstance(model, PooledFeatures) else None
    model = model if pooled else model.clone(num_classes=0)

    @jax.jit
    def apply(batch):
        return model.apply(variables, task.image_inputs(batch), method=pooled)

    batches = Batches.on_mesh(
        dataset, InOrder(len(dataset), BATCH_SIZE), -(-len(dataset) // BATCH_SIZE), experiment.mesh
    )
    place = functools.partial(place_batch, mesh=experiment.mesh)
    rows = np.concatenate([np.asarray(apply(batch), np.float32) for batch in load(batches, 0, place)])
    labels = np.array([examples[index].get("label", -1) for index in range(len(examples))])
    if (labels < 0).any():
        raise UserError("the data have no labels to fit a classifier to: give others with --config.data...")
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
        variables = jax.jit(experiment.create_state(None))({}).variables()
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
