"""Scores of labels and numbers: accuracy, F1, Matthews' coefficient, correlations, as GLUE has them."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from research.config import suggestion
from research.errors import UserError


def counts(right: Sequence[bool], given: Sequence[bool]) -> tuple[int, int, int]:
    """True positives, false positives and false negatives; `right` is the truth, `given` the answer."""
    truth, answer = np.asarray(right, bool), np.asarray(given, bool)
    return int((truth & answer).sum()), int((~truth & answer).sum()), int((truth & ~answer).sum())


def f1_of(true_positives: int, false_positives: int, false_negatives: int) -> float:
    """The harmonic mean of precision and recall; 0 where there is nothing to find and nothing was found."""
    total = 2 * true_positives + false_positives + false_negatives
    return 2 * true_positives / total if total else 0.0


def accuracy(right: Sequence[Hashable], given: Sequence[Hashable]) -> float:
    """The fraction of equal labels."""
    return sum(a == b for a, b in zip(right, given, strict=True)) / len(right)


def f1(right: Sequence[Hashable], given: Sequence[Hashable], positive: Hashable) -> float:
    """F1 of one class: GLUE's for MRPC and QQP, whose positive class is the second."""
    return f1_of(*counts([label == positive for label in right], [label == positive for label in given]))


def macro_f1(right: Sequence[Hashable], given: Sequence[Hashable]) -> float:
    """The mean of the F1 of every class that is in the truth or in the answers."""
    return float(np.mean([f1(right, given, label) for label in {*right, *given}]))


def matthews(right: Sequence[Hashable], given: Sequence[Hashable]) -> float:
    """Matthews' correlation of two or more classes (Gorodkin 2004), GLUE's score of CoLA; 0 where one side is constant.

    The covariance of the two sides' indicators of all classes, over the root of the product of their variances.
    """
    labels = {label: number for number, label in enumerate(dict.fromkeys([*right, *given]))}
    confusion = np.zeros((len(labels), len(labels)))
    for a, b in zip(right, given, strict=True):
        confusion[labels[a], labels[b]] += 1
    total, true, answered = confusion.sum(), confusion.sum(axis=1), confusion.sum(axis=0)
    covariance = np.trace(confusion) * total - true @ answered
    variances = (total**2 - true @ true) * (total**2 - answered @ answered)
    return float(covariance / np.sqrt(variances)) if variances else 0.0


def pearson(right: Sequence[float], given: Sequence[float]) -> float:
    """The linear correlation of two lists of numbers; 0 where one of them is constant."""
    a, b = (np.asarray(side, np.float64) - np.mean(side) for side in (right, given))
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale else 0.0


def spearman(right: Sequence[float], given: Sequence[float]) -> float:
    """The linear correlation of the ranks, in which equal numbers share the mean of their places."""
    return pearson(_ranks(right), _ranks(given))


def _ranks(values: Sequence[float]) -> list[float]:
    _, places, sizes = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    return (np.cumsum(sizes) - (sizes - 1) / 2)[places].tolist()


def micro_f1(right: Sequence[Sequence[Hashable]], given: Sequence[Sequence[Hashable]]) -> float:
    """F1 of all pairs of an example and one of its labels."""
    pairs = [(len({*a} & {*b}), len({*b} - {*a}), len({*a} - {*b})) for a, b in zip(right, given, strict=True)]
    return f1_of(*(sum(column) for column in zip(*pairs, strict=True)))


def subset_accuracy(right: Sequence[Sequence[Hashable]], given: Sequence[Sequence[Hashable]]) -> float:
    """The fraction of examples whose labels are all right."""
    return accuracy([frozenset(labels) for labels in right], [frozenset(labels) for labels in given])


CLASSES: Mapping[str, Callable[..., float]] = {"f1": f1, "macro_f1": macro_f1, "matthews": matthews}
LABELS: Mapping[str, Callable[..., float]] = {"micro_f1": micro_f1, "subset_accuracy": subset_accuracy}
NUMBERS: Mapping[str, Callable[..., float]] = {"pearson": pearson, "spearman": spearman}


class LabelScorer:
    """Scores by their names in a table above, of what `truth` says of each example and `key` names of each answer.

    positive: the class that `f1` is of. Raises UserError for a name that the table lacks.
    """

    def __init__(
        self,
        names: Sequence[str],
        table: Mapping[str, Callable[..., float]],
        truth: Callable[[Mapping[str, Any]], Any],
        key: str,
        positive: Hashable | None = None,
    ):
        for name in names:
            if name not in table:
                raise UserError(f"score {name!r} is unknown: {suggestion(name, table, 'scores')}")
        self.names: Sequence[str] = tuple(names)
        self._table, self._truth, self._key, self._positive = table, truth, key, positive
        self._right: list[Any] = []
        self._given: list[Any] = []

    def add(self, example: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Takes the truth of an example and its answer's value."""
        self._right.append(self._truth(example))
        self._given.append(answer[self._key])

    def result(self) -> dict[str, float]:
        """The scores. Raises UserError where nothing was added."""
        if not self._right:
            raise UserError("there are no answers to score: give at least one example")
        extra = {"f1": (self._positive,)}
        return {name: self._table[name](self._right, self._given, *extra.get(name, ())) for name in self.names}

    def signatures(self) -> dict[str, str]:
        """What F1 is of; the other names say all."""
        said = {"f1": f"F1 of class {self._positive!r}", "macro_f1": "mean over classes in truth or answers"}
        return {name: said[name] for name in self.names if name in said}
