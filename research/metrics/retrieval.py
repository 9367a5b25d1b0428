"""How well vectors of texts and images find those that belong to them: recall at k and the mean reciprocal rank."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.errors import UserError

AT = (1, 5, 10)
BOTH_WAYS, OF_TWINS, OF_LABELS = ("image_to_text", "text_to_image"), ("relation", "nouns"), ("zero_shot_accuracy",)
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
            ahead = ~(score < score[own].max())  # NaN as well
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
        self._sources: dict[Any, np.ndarray] = {}
        self._targets: dict[Any, np.ndarray] = {}
        self._right: dict[Any, list[Any]] = {}

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


class ImageTextScorer:
    """Each image looks for its captions among all different captions of the split, and each caption for its images:
    `image_to_text_recall_1` and so on, `text_to_image_recall_1` and so on, as in `RetrievalScorer`.

    Right is every caption that stands beside the same image, and every image beside the same caption. Examples with one
    `name` are of one image; without a name, each has its own.

    Where examples have a `twin`, a caption whose relation is swapped, `relation` is how often an image's own caption is
    nearer than its twin, and `nouns` how often, of the captions and twins of all these examples, the nearest is its own
    or its own twin: both at random where a model sees nothing, at 1/2 and at 2 over the number of texts. Where they
    have a `label` and the answer says which one is right, `zero_shot_accuracy` is how often it was answered.
    """

    of_captions: Sequence[str] = tuple(f"{way}_{name}" for way in BOTH_WAYS for name in RetrievalScorer.names)
    names: Sequence[str] = (*of_captions, *OF_TWINS, *OF_LABELS)

    def __init__(self):
        self._to_text, self._to_image = RetrievalScorer(), RetrievalScorer()
        self._count = self._pairs = self._labelled = self._right = 0
        self._twins: list[tuple[np.ndarray, str, str]] = []
        self._texts: dict[str, np.ndarray] = {}

    def add(self, example: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Takes the answer's `vector`, `caption_vector` and, if there, `twin_vector`, `label` and `right`."""
        self._count += 1
        if "right" in answer:
            self._labelled += 1
            self._right += answer["label"] == answer["right"]
        if "caption_vector" not in answer:
            return
        self._pairs += 1
        image = example.get("name", self._count)
        vectors = answer["vector"], answer["caption_vector"]
        pair = dict(zip(("vector", "target_vector"), vectors, strict=True))
        self._to_text.add({"source": image, "target": example["caption"]}, pair)
        pair = dict(zip(("target_vector", "vector"), vectors, strict=True))
        self._to_image.add({"source": example["caption"], "target": image}, pair)
        if example.get("twin"):
            own = np.asarray(answer["vector"], np.float32)
            self._twins.append((own, example["caption"], example["twin"]))
            self._texts.setdefault(example["caption"], np.asarray(answer["caption_vector"], np.float32))
            self._texts.setdefault(example["twin"], np.asarray(answer["twin_vector"], np.float32))

    def result(self) -> dict[str, float]:
        """The scores. Raises UserError where nothing was added that can be scored."""
        if not self._pairs and not self._labelled:
            raise UserError("there is nothing to score: give images with captions, or with labels and task.classes")
        scores = {"zero_shot_accuracy": self._right / self._labelled} if self._labelled else {}
        for way, scorer in zip(BOTH_WAYS, (self._to_text, self._to_image), strict=True):
            if self._pairs:
                scores |= {f"{way}_{name}": value for name, value in scorer.result().items()}
        return scores | self._of_twins() if self._twins else scores

    def _of_twins(self) -> dict[str, float]:
        places = {text: place for place, text in enumerate(self._texts)}
        table = np.stack([*self._texts.values()])
        relation = nouns = 0.0
        for vector, caption, twin in self._twins:
            scores = table @ vector
            own, other = places[caption], places[twin]
            rest = np.delete(scores, [own, other]).max(initial=-np.inf)
            relation += scores[own] > scores[other]
            nouns += max(scores[own], scores[other]) > rest
        return {"relation": float(relation) / len(self._twins), "nouns": float(nouns) / len(self._twins)}

    def signatures(self) -> dict[str, str]:
        """What is looked for and among what."""
        ways = self.of_captions[:4], self.of_captions[4:]
        found = dict.fromkeys(ways[0], "any caption of the image, among all different captions of the split")
        found |= dict.fromkeys(ways[1], "any image of the caption, among all images of the split")
        if self._twins:
            found["relation"] = "an image's own caption before its twin, whose relation is swapped"
            found["nouns"] = "its own caption or twin before the captions and twins of all other examples that have one"
        return found
