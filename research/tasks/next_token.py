"""The one token that follows a prompt: the answer of an equation, say. Loss and accuracy are of that token alone."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from research.data.plans import Length
from research.data.rows import Rows
from research.data.tokenizer import Tokenizer, TrainedTokenizer
from research.errors import UserError
from research.tasks.logits import Logits
from research.tasks.losses import cross_entropy, in_top, weighted
from research.tasks.task import PREPARED, Apply, Example, Metrics, Task, View
from research.tasks.vocabulary import given_text, read_and_written, show_tokens, token_ids, vocabulary_of_run


@dataclasses.dataclass(frozen=True)
class TokenRows(Rows):
    """Rows of as many tokens each, and the token that follows. A batch holds `tokens`, int32 [batch, length], and
    `label`, int32 [batch]."""

    prompts: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.prompts)

    def batch(self, indices: np.ndarray, epochs: np.ndarray, length: Length | None) -> dict[str, np.ndarray]:
        return {"tokens": self.prompts[indices], "label": self.labels[indices]}


@dataclasses.dataclass(frozen=True)
class NextToken(Task):
    """{"source": prompt, "target": one token}; all prompts have as many tokens."""

    tokenizer: Tokenizer
    vocabulary: TrainedTokenizer = PREPARED

    def prepare(self, source: Any, folder: Path) -> "NextToken":
        vocabulary = vocabulary_of_run(self.tokenizer, source, ("source", "target"), folder)
        return dataclasses.replace(self, vocabulary=vocabulary)

    def model_fields(self) -> dict[str, Any]:
        return {"vocab_size": self.vocabulary.vocab_size}

    def rows(self, examples: Sequence[Example], *, train: bool, seed: int) -> Rows:
        labels = self.vocabulary.encode_batch([example["target"] for example in examples])
        wrong = next((example for example, label in zip(examples, labels, strict=True) if len(label) != 1), None)
        if wrong:
            raise UserError(f"the answer {wrong['target']!r} is not one token: use another task.tokenizer")
        return TokenRows(self._prompts(examples), np.array(labels, np.int32)[:, 0])

    def questions(self, examples: Sequence[Example]) -> Rows:
        prompts = self._prompts(examples)
        return TokenRows(prompts, np.zeros(len(prompts), np.int32))

    def _prompts(self, examples: Sequence[Example]) -> np.ndarray:
        texts = [example["source"] for example in examples]
        prompts = self.vocabulary.encode_batch(texts)
        for text, prompt in zip(texts, prompts, strict=True):
            if not prompt or len(prompt) != len(prompts[0]) or self.vocabulary.unk in prompt:
                raise UserError(f"{text!r} is not written like {texts[0]!r} with the words of the training data")
        return np.array(prompts, np.int32)

    def token_ids(self) -> Mapping[str, Mapping[str, int]]:
        return token_ids(self)

    def example(self, item: Any) -> Example:
        return {"source": given_text(item)}

    def num_tokens(self, batch: Mapping[str, Any]) -> int:
        return batch["tokens"].size

    def model_inputs(self, batch: Mapping[str, jax.Array]) -> tuple:
        return (batch["tokens"],)

    def logits(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[tuple[Logits, ...], Mapping[str, Any]]:
        logits, updates = apply(*self.model_inputs(batch))
        return (Logits(logits[:, -1], batch["weight"]),), updates

    def metrics(self, logits: Sequence[Logits], batch: Mapping[str, jax.Array]) -> Metrics:
        ((values, weights, *_),) = logits
        losses, _ = cross_entropy(values, batch["label"])
        right = in_top(values, batch["label"], 1).astype(np.float32)
        return {"loss": weighted(losses, weights), "accuracy": weighted(right, weights)}

    def predict(self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> jax.Array:
        """The most probable next token of each prompt, int32 [batch]."""
        logits: Any = model.apply(variables, *self.model_inputs(batch))
        return logits[:, -1].argmax(axis=-1)

    def answer(self, example: Example, rows: Sequence[np.ndarray]) -> dict[str, Any]:
        return {"text": self.vocabulary.decode([int(rows[0])])}

    def sample(self, example: Example, answer: Mapping[str, Any]) -> dict[str, Any]:
        sample = {"source": example["source"], "answer": answer["text"]}
        return sample | {"reference": example["target"]} if "target" in example else sample

    def view(self, example: Example, answer: Mapping[str, Any]) -> View:
        prompt = self._prompts([example])[0]
        written = [*prompt[1:], *self.vocabulary.encode(answer["text"])]
        return read_and_written(f"{example['source']} {answer['text']}", prompt, written, self.vocabulary)

    def show(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        label = int(batch["label"][row])
        prompt = show_tokens(self.vocabulary, batch["tokens"][row], -1)
        return f"tokens: {prompt} -> {self.vocabulary.id_to_token(label)!r}={label}"
