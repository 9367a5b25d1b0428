"""Tagging: one label for each word of a sentence, such as its part of speech."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from research.data.plans import Length
from research.data.rows import Rows
from research.data.text import Ragged
from research.data.tokenizer import PAD, Tokenizer, TrainedTokenizer
from research.errors import UserError
from research.tasks.losses import cross_entropy, in_top, weighted
from research.tasks.task import Apply, Example, Metrics, Task
from research.tasks.vocabulary import given_text, show_tokens, vocabulary_of_run


@dataclasses.dataclass(frozen=True)
class TaggedWords(Rows):
    """A batch holds `words` and `tags`, int32 [batch, length]; PAD fills the rest."""

    words: Ragged
    tags: Ragged
    length: int

    def __len__(self) -> int:
        return len(self.words)

    def batch(self, indices: np.ndarray, epochs: np.ndarray, length: Length | None) -> dict[str, np.ndarray]:
        return {name: getattr(self, name).padded(indices, self.length) for name in ("words", "tags")}


@dataclasses.dataclass(frozen=True)
class Tagging(Task):
    """{"source": words, "target": their tags}, parted by spaces; the model is a `gpt`, which reads from the left.

    length: words of a sentence; what exceeds them is cut off.
    """

    length: int = 64
    vocabulary: TrainedTokenizer | None = None

    pad: ClassVar[int | None] = PAD

    def prepare(self, source: Any, folder: Path) -> "Tagging":
        vocabulary = vocabulary_of_run(Tokenizer("whitespace"), source, ("source", "target"), folder)
        return dataclasses.replace(self, vocabulary=vocabulary)

    def model_fields(self) -> dict[str, Any]:
        return {"vocab_size": self.vocabulary.vocab_size}

    def rows(self, examples: Sequence[Example], *, train: bool, seed: int) -> Rows:
        sides = ([example[side] for example in examples] for side in ("source", "target"))
        words, tags = (Ragged.from_lists(self.vocabulary.encode_batch(side)) for side in sides)
        unequal = np.flatnonzero(words.lengths() != tags.lengths())
        if len(unequal):
            raise UserError(f"sentence {unequal[0] + 1} has not as many words as tags: give one tag for each word")
        return TaggedWords(words, tags, self.length)

    def example(self, item: Any) -> Example:
        return {"source": given_text(item)}

    def questions(self, examples: Sequence[Example]) -> Rows:
        words = Ragged.from_lists(self.vocabulary.encode_batch([example["source"] for example in examples]))
        return TaggedWords(words, words, self.length)

    def model_inputs(self, batch: Mapping[str, jax.Array]) -> tuple:
        return (batch["words"],)

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[Metrics, Mapping[str, Any]]:
        logits, updates = apply(*self.model_inputs(batch))
        weights = (batch["tags"] != PAD) * batch["weight"][:, None]
        losses, _ = cross_entropy(logits, batch["tags"])
        right = in_top(logits, batch["tags"], 1).astype(jnp.float32)
        return {"loss": weighted(losses, weights), "accuracy": weighted(right, weights)}, updates

    def predict(self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> jax.Array:
        """The most probable tag of each word, int32 [batch, length]."""
        best = model.apply(variables, *self.model_inputs(batch)).argmax(axis=-1)
        return jnp.where(batch["words"] == PAD, PAD, best)

    def answer(self, example: Example, rows: Sequence[np.ndarray]) -> dict[str, Any]:
        (tags,) = rows
        return {"text": self.vocabulary.decode(tags)}

    def sample(self, example: Example, answer: Mapping[str, Any]) -> dict[str, Any]:
        sample = {"source": example["source"], "answer": answer["text"]}
        return sample | {"reference": example["target"]} if "target" in example else sample

    def show(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        return "\n".join(f"{name}: {show_tokens(self.vocabulary, batch[name][row], PAD)}" for name in ("words", "tags"))
