"""How well vectors of texts find those that belong to them: recall at k and the mean reciprocal rank."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.errors import UserError

AT = (1, 5, 10)
CHUNK = 1024
"""Questions whose scores are in memory at once."""


def ranks(questions: np.ndarray, candidates: np.ndarray, right: Sequence[Sequence[int]]) -> np.ndarray:
    """The rank, from 1, of each question's best right candidate by the product of their vectors, int64 [questions].

    questions, candidates: float32 [count, width]. right: the indices of the right candidates. A wrong candidate of the
    same score stands before a right one, so that vectors which are all equal find nothing.
    """
    found = np.zeros(len(questions), np.int64)
    for start in range(0, len(questions), CHUNK):
        scores = questions[start : start + CHUNK] @ candidates.T
        for row, score in enumerate(scores, start):
            own = [*right[row]]
            ahead = score >= score[own].max()
            ahead[own] = False
            found[row] = 1 + ahead.sum()
    return found


class RetrievalScorer:
    """Each source looks for its target among all different targets: `recall_1`, `recall_5`, `recall_10`, `mrr`.

    Right is every target that stands beside the same source somewhere; sources that occur more often count as often.
    recall_k: the fraction of sources with a right one among the k nearest; mrr: the mean of 1 / rank of the first right
    one (Voorhees 1999). Of an example it takes `source` and `target`, of an answer `vector` and `target_vector`.
    """

    names: Sequence[str] = (*(f"recall_{k}" for k in AT), "mrr")

    def __init__(self):
        self._sources: dict[str, np.ndarray] = {}
        self._targets: dict[str, np.ndarray] = {}
        self._right: dict[str, list[str]] = {}

    def add(self, example: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Keeps the vectors of texts that are new."""
        source, target = example["source"], example["target"]
        self._sources.setdefault(source, np.asarray(answer["vector"], np.float32))
        self._targets.setdefault(target, np.asarray(answer["target_vector"], np.float32))
        self._right.setdefault(source, []).append(target)

    def result(self) -> dict[str, float]:
        """The scores. Raises UserError where nothing was added."""
        if not self._sources:
            raise UserError("there are no pairs of texts to score: give at least one")
        place = {target: index for index, target in enumerate(self._targets)}
        right = [sorted({place[target] for target in self._right[source]}) for source in self._sources]
        counts = np.array([len(self._right[source]) for source in self._sources])
        found = ranks(np.stack([*self._sources.values()]), np.stack([*self._targets.values()]), right)
        scores = {f"recall_{k}": float(np.average(found <= k, weights=counts)) for k in AT}
        return scores | {"mrr": float(np.average(1 / found, weights=counts))}

    def signatures(self) -> dict[str, str]:
        """What is looked for and among what, without which these scores say little."""
        return dict.fromkeys(self.names, "any target of the source, among all different targets of the split")
