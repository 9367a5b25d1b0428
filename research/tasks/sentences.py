"""Vectors of sentences, whose cosines say how near their meanings are (Reimers & Gurevych 2019, Sentence-BERT)."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from research.data.plans import Length
from research.data.rows import Batch, Rows
from research.data.text import Ragged
from research.data.tokenizer import Tokenizer, TrainedTokenizer
from research.errors import UserError
from research.metrics.retrieval import RetrievalScorer
from research.models.bert import Pool, sentence_vectors
from research.ranges import ANSWERING, Size, Temperature
from research.tasks.losses import cross_entropy
from research.tasks.task import PREPARED, Apply, Example, Metrics, Scorer, Task, View
from research.tasks.vocabulary import (
    given_text,
    padding_of,
    remarks_on,
    rules_of,
    show_tokens,
    token_ids,
    vocabulary_of_run,
)
from research.weights.vocabularies import encoder_of, sentences_of, sentences_written

SIDES = ("source", "target")


@dataclasses.dataclass(frozen=True)
class Sentences(Task):
    """One vector for each text; for a model that gives states of tokens (BERT).

    Training and evaluation read pairs of texts. Of all targets of the batch each source has to find its own (Henderson
    et al. 2017, section 4): the loss is the cross-entropy of its cosines over the temperature, `accuracy` how often its
    own is the nearest. So both depend on the size of the batch, or of a micro-batch where training accumulates. The
    scores do not: there every source looks among all targets of the split (`RetrievalScorer`).

    length: tokens of a text, with the marks of its start and end; longer texts are cut. pool, normalise: see
    `sentence_vectors`.
    """

    compares: ClassVar[bool] = True

    tokenizer: Tokenizer
    length: Size = 128
    pool: Annotated[Pool, ANSWERING] = "mean"
    normalise: Annotated[bool, ANSWERING] = True
    temperature: Temperature = 0.05
    vocabulary: TrainedTokenizer = PREPARED

    @property
    def pad(self) -> int:
        return padding_of(self.vocabulary)

    def prepare(self, source: Any, folder: Path) -> "Sentences":
        if self.length < 3:
            raise UserError(f"task.length {self.length} leaves no room for a word between two marks: use 3 or more")
        vocabulary = vocabulary_of_run(self.tokenizer, source, SIDES, folder)
        return dataclasses.replace(self, vocabulary=vocabulary)

    def model_fields(self) -> dict[str, Any]:
        return {"vocab_size": self.vocabulary.vocab_size}

    @classmethod
    def from_published(cls, published: Any, folder: Path) -> dict[str, Any]:
        fields = encoder_of(published.folder, published.model, folder)
        fields |= sentences_of(published.folder, fields["length"])
        data = {"name": "parallel_text", "train_source": "my_train.en", "train_target": "my_train.de"}
        return {"task": fields, "data": data}

    def published(self, model: Any) -> dict[str, Any]:
        return {"config.json": {"pad_token_id": self.pad}, **sentences_written(self, model)}

    def token_ids(self) -> Mapping[str, Mapping[str, int]]:
        return token_ids(self)

    def example(self, item: Any) -> Example:
        return {"source": given_text(item)}

    def remarks(self, example: Example) -> list[str]:
        return [
            remark for side in SIDES for remark in remarks_on(example[side], side, self.vocabulary, self.length - 2)
        ]

    def rows(self, examples: Sequence[Example], *, train: bool, seed: int) -> Rows:
        return Texts(
            {side: self._tokens([example[side] for example in examples]) for side in SIDES}, self.length, self.pad
        )

    def questions(self, examples: Sequence[Example]) -> Rows:
        """A row for the source of each example, and one for its target where it has one."""
        texts = [example[side] for example in examples for side in SIDES if side in example]
        owner = [number for number, example in enumerate(examples) for side in SIDES if side in example]
        return Texts({"source": self._tokens(texts)}, self.length, self.pad, np.array(owner, np.int64))

    def standalone(self) -> dict[str, Any]:
        fills = {"source": self.pad}
        given = {"kind": "sentence", "length": self.length, "arrays": [*fills], "fills": fills}
        return {"input": given, "answer": {"kind": "vector"}, "tokenizer": rules_of(self.vocabulary)}

    def _tokens(self, texts: Sequence[str]) -> Ragged:
        start, end = self.vocabulary.start_token, self.vocabulary.end_token
        return Ragged.from_lists(
            [[start, *ids[: self.length - 2], end] for ids in self.vocabulary.encode_batch(list(texts))]
        )

    def model_inputs(self, batch: Mapping[str, Any]) -> tuple:
        return batch["source"], batch["source"] != self.pad

    def num_tokens(self, batch: Mapping[str, Any]) -> int:
        return sum(batch[side].size for side in SIDES if side in batch)

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[Metrics, Mapping[str, Any]]:
        sources, _ = self._vectors(apply, batch["source"])
        targets, updates = self._vectors(apply, batch["target"])
        weight = batch["weight"]
        scores = sources @ targets.T / self.temperature
        scores = jnp.where(weight[None] > 0, scores, -1e9)  # a cosine over a temperature is far from it
        right = jnp.arange(len(scores))
        losses, _ = cross_entropy(scores, right)
        found = jnp.argmax(scores, axis=-1) == right
        total = weight.sum()
        return {"loss": ((losses * weight).sum(), total), "accuracy": ((found * weight).sum(), total)}, updates

    def _vectors(self, apply: Apply, tokens: jax.Array) -> tuple[jax.Array, Mapping[str, Any]]:
        valid = tokens != self.pad
        states, updates = apply(tokens, valid, method="hidden_states")
        return sentence_vectors(states[-1], valid, self.pool), updates

    def predict(self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> jax.Array:
        """The vectors, float32 [batch, width]."""
        tokens, valid = self.model_inputs(batch)
        states: Any = model.apply(variables, tokens, valid, method="hidden_states")
        return sentence_vectors(states[-1], valid, self.pool, normalise=self.normalise)

    def answer(self, example: Example, rows: Sequence[np.ndarray]) -> dict[str, Any]:
        vector, *others = ([float(number) for number in row] for row in rows)
        answer = {"text": " ".join(f"{number:.6g}" for number in vector), "vector": vector}
        return {**answer, "target_vector": others[0]} if others else answer

    def scorer(self) -> Scorer:
        return RetrievalScorer()

    def sample(self, example: Example, answer: Mapping[str, Any]) -> dict[str, Any]:
        first = " ".join(f"{number:.3f}" for number in answer["vector"][:4])
        return {"source": example["source"], "answer": f"{first} ... ({len(answer['vector'])} numbers)"}

    def view(self, example: Example, answer: Mapping[str, Any]) -> View:
        inputs = self.model_inputs(self.questions([example]).first())
        tokens = {"tokens": [self.vocabulary.id_to_token(int(token)) for token in inputs[0][0]]}
        return View(example["source"], inputs, tokens, lambda path: ("tokens", "tokens"))

    def show(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        return "\n".join(f"{side}: {show_tokens(self.vocabulary, batch[side][row], self.pad)}" for side in SIDES)


@dataclasses.dataclass(frozen=True)
class Texts(Rows):
    """Tokens of texts by side, int32 [batch, length]; `pad` fills the rest."""

    sides: Mapping[str, Ragged]
    longest_text: int
    pad: int
    owner: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.sides["source"])

    def owners(self) -> np.ndarray | None:
        return self.owner

    def lengths(self) -> np.ndarray:
        return np.max([side.lengths() for side in self.sides.values()], axis=0)

    @property
    def longest(self) -> int:
        return self.longest_text

    def batch(self, indices: np.ndarray, epochs: np.ndarray, length: Length | None) -> Batch:
        if length is None:
            length = self.longest_text
        assert isinstance(length, int)
        return {name: side.padded(indices, length, self.pad) for name, side in self.sides.items()}
