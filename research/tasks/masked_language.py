"""BERT's pre-training: masked tokens, and whether two segments follow each other (Devlin et al. 2019, section 3.1)."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from research.data.columns import Columns, ragged
from research.data.masked_text import Marks, MaskedRows, windows_of
from research.data.plain_text import cut
from research.data.rows import Rows
from research.data.texts import Chunk, beginnings, chunks_of_texts
from research.data.token_store import arrays_of, highest
from research.data.tokenizer import Tokenizer, TrainedTokenizer
from research.errors import UserError
from research.layers.embedding import vocabulary_logits
from research.ranges import Part, Size
from research.tasks.logits import Logits, vocabulary_sums
from research.tasks.losses import cross_entropy, in_top, weighted
from research.tasks.task import PREPARED, Apply, Example, Metrics, Task, View
from research.tasks.vocabulary import (
    given_text,
    padding_of,
    remarks_on,
    show_tokens,
    token_ids,
    vocabulary_of_run,
)
from research.weights.vocabularies import encoder_of

MASK = "[MASK]"
"""What a person writes where a word is missing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedLanguage(Task):
    """Texts in windows of at most `length` tokens with their marks, none of which spans two texts.

    masked: fraction of the tokens that the model has to find: 80 % of them are [MASK], 10 % any token, and 10 % what
    they were, drawn anew in every epoch. whole_words: masks all pieces of a word together. next_sentence: parts each
    window in two segments, of which the second is one from another text in half of the rows; for a model with the head
    "pretraining". The loss is the sum of both (section A.2), the means over masked tokens and over the rows of a batch.
    A person writes [MASK] where a word is missing.
    """

    tokenizer: Tokenizer
    length: Size = 128
    masked: Part = 0.15
    whole_words: bool = False
    next_sentence: bool = False
    vocabulary: TrainedTokenizer = PREPARED

    @property
    def pad(self) -> int:
        return padding_of(self.vocabulary)

    def prepare(self, source: Any, folder: Path) -> "MaskedLanguage":
        if self.length < 8:
            raise UserError(f"task.length {self.length} leaves no room for two segments: use 8 or more")
        vocabulary = vocabulary_of_run(self.tokenizer, source, ("text",), folder)
        if vocabulary.mask is None:
            raise UserError("task.tokenizer has no [MASK]: use kind wordpiece, or the file of a BERT or a RoBERTa")
        if self.whole_words and not vocabulary.parts_words:
            raise UserError("task.tokenizer does not part words into pieces: set task.whole_words to False")
        return dataclasses.replace(self, vocabulary=vocabulary)

    @classmethod
    def from_published(cls, published: Any, folder: Path) -> dict[str, Any]:
        fields = encoder_of(published.folder, published.model, folder)
        return {"task": fields, "data": {"name": "text_file", "path": "my_text.txt"}}

    def published(self, model: Any) -> dict[str, Any]:
        return {"config.json": {"pad_token_id": self.pad}}

    def model_fields(self) -> dict[str, Any]:
        return {"vocab_size": self.vocabulary.vocab_size}

    def token_ids(self) -> Mapping[str, Mapping[str, int]]:
        return token_ids(self)

    def rows(self, examples: Sequence[Example], *, train: bool, seed: int) -> Rows:
        arrays = arrays_of(
            functools.partial(chunks_of_texts, examples),
            self._encode,
            {"tokens": self.vocabulary.dtype},
            getattr(examples, "origin", None),
            {"vocabulary": self.vocabulary.digest, "task": "masked_language"},
            self._sound,
        )
        starts, ends, texts = windows_of(arrays["tokens"], self.vocabulary.end_token, self.length - self._marks)
        if not len(starts):
            raise UserError("the text has too few words for a window: give more of it")
        marks = Marks.of(self.vocabulary, self.whole_words)
        options = {"masked": self.masked, "pairs": self.next_sentence, "seed": seed, "length": self.length}
        return MaskedRows(arrays["tokens"], starts, ends, texts, marks, **options)

    def _sound(self, arrays: Mapping[str, np.ndarray]) -> bool:
        """Whether these are ids of the vocabulary."""
        return highest(arrays["tokens"]) < self.vocabulary.vocab_size

    @property
    def _marks(self) -> int:
        """Tokens of a row that are not of its text."""
        return 3 if self.next_sentence else 2

    def _encode(self, chunk: Chunk) -> tuple[Mapping[str, np.ndarray], int]:
        """The tokens of pieces of texts, with the mark of the end behind each text."""
        pieces = [(cut(text), last) for text, last in chunk]
        encoded = iter(self.vocabulary.encode_batch([line for lines, _ in pieces for line in lines]))
        tokens: list[int] = []
        for lines, last in pieces:
            for _ in lines:
                tokens += next(encoded)
            tokens += [self.vocabulary.end_token] * last
        return {"tokens": np.array(tokens, self.vocabulary.dtype)}, sum(len(text.encode()) for text, _ in chunk)

    def _parts(self, text: str) -> list[str]:
        """What stands between the masks. RoBERTa's tokens begin with a space, which is part of what is missing."""
        *before, last = text.split(MASK)
        return [*(before if self.vocabulary.parts_words else map(str.rstrip, before)), last]

    def example(self, item: Any) -> Example:
        return {"text": given_text(item)}

    def remarks(self, example: Example) -> list[str]:
        return remarks_on(example["text"], "the text", self.vocabulary, None)

    def questions(self, examples: Sequence[Example]) -> Rows:
        rows, places = [], []
        for number, example in enumerate(examples, 1):
            parts = self.vocabulary.encode_batch(self._parts(example["text"]))
            tokens = [self.vocabulary.start_token, *parts[0]]
            for part in parts[1:]:
                tokens += [self.vocabulary.mask, *part]
            tokens.append(self.vocabulary.end_token)
            if len(parts) == 1:
                raise UserError(f"input {number} has no {MASK}: write it where a word is missing")
            if len(tokens) > self.length:
                raise UserError(f"input {number} has {len(tokens)} tokens, and {self.length} fit: shorten it")
            rows.append(np.array(tokens, np.int32))
            places.append(np.flatnonzero(rows[-1] == self.vocabulary.mask))
        tokens = ragged(rows)
        sequences = {"tokens": tokens, "segments": dataclasses.replace(tokens, tokens=np.zeros_like(tokens.tokens))}
        most = max((len(each) for each in places), default=1)
        padded = [np.pad(each, (0, most - len(each))) for each in places]
        values = {"places": np.array(padded, np.int32).reshape(-1, most)}
        return Columns(sequences, self.length, values=values, fills={"tokens": self.pad})

    def shown(self, examples: Sequence[Example], count: int) -> list[Example]:
        """Beginnings of texts in which the longest word is masked."""
        found: list[Example] = []
        for text in beginnings(examples, count, 4 * self.length):
            words = text.split()[: self.length // 2]
            while len(words) > 2 and len(self.vocabulary.encode(" ".join(words))) > self.length - 2:
                words = words[: len(words) // 2]
            if len(words) > 2:
                place = max(range(len(words)), key=lambda place: len(words[place]))
                masked = " ".join([*words[:place], MASK, *words[place + 1 :]])
                found.append({"text": masked, "target": " ".join(words)})
        return found

    def model_inputs(self, batch: Mapping[str, Any]) -> tuple:
        return batch["tokens"], batch["tokens"] != self.pad, batch["segments"]

    def num_tokens(self, batch: Mapping[str, Any]) -> int:
        return batch["tokens"].size

    def logits(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[tuple[Logits, ...], Mapping[str, Any]]:
        """Of the masked tokens, and of whether the second segment follows the first."""
        inputs = (*self.model_inputs(batch), batch["places"])
        (features, table, bias, follows), updates = apply(*inputs, method="masked_features")
        masked = Logits(features, batch["masked"] * batch["weight"][:, None], table, bias)
        return (masked, Logits(follows, batch["weight"])) if self.next_sentence else (masked,), updates

    def metrics(self, logits: Sequence[Logits], batch: Mapping[str, jax.Array]) -> Metrics:
        """`masked_accuracy` is of the masked tokens, `next_sentence_accuracy` of the rows."""
        weights = logits[0].weights
        nats, _, right = vocabulary_sums(logits[0], batch["labels"])
        metrics: Metrics = {"loss": (nats, weights.sum()), "masked_accuracy": (right, weights.sum())}
        if self.next_sentence:
            follows = logits[1].values
            losses, _ = cross_entropy(follows, batch["other"])
            of_pairs, count = weighted(losses, batch["weight"])
            metrics["masked_loss"] = metrics["loss"]
            metrics["loss"] = (nats + of_pairs * weights.sum() / jnp.maximum(count, 1e-9), weights.sum())
            found = in_top(follows, batch["other"], 1).astype(jnp.float32)
            metrics["next_sentence_accuracy"] = weighted(found, batch["weight"])
        return metrics

    def predict(self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> Any:
        """The most probable token at each [MASK], and its probability, [batch, masks]."""
        inputs = (*self.model_inputs(batch), batch["places"])
        found: Any = model.apply(variables, *inputs, method="masked_features")
        features, table, bias, _ = found
        chances = jax.nn.softmax(vocabulary_logits(features, table) + bias)
        return chances.argmax(axis=-1), chances.max(axis=-1)

    def answer(self, example: Example, rows: Sequence[Any]) -> dict[str, Any]:
        ((tokens, chances),) = rows
        first, *parts = self._parts(example["text"])
        found = [int(token) for token in tokens[: len(parts)]]
        words = [self.vocabulary.piece(token) for token in found]
        # RoBERTa's tokens bring the space before them, or none.
        said = words if self.vocabulary.parts_words else map(self.vocabulary.decode, ([token] for token in found))
        text = first + "".join(word + part for word, part in zip(said, parts, strict=True))
        return {"text": text, "words": words, "probability": float(np.prod(chances[: len(parts)]))}

    def sample(self, example: Example, answer: Mapping[str, Any]) -> dict[str, Any]:
        sample = {"source": example["text"], "answer": answer["text"], "probability": answer["probability"]}
        return sample | {"reference": example["target"]} if "target" in example else sample

    def view(self, example: Example, answer: Mapping[str, Any]) -> View:
        inputs = self.model_inputs(self.questions([example]).first())
        tokens = [self.vocabulary.id_to_token(int(token)) for token in inputs[0][0]]
        return View(answer["text"], inputs, {"tokens": tokens}, lambda path: ("tokens", "tokens"))

    def show(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        masked = batch["masked"][row] > 0
        labels = (self.vocabulary.id_to_token(int(token)) for token in batch["labels"][row][masked])
        found = ", ".join(f"{place}: {label!r}" for place, label in zip(batch["places"][row], labels, strict=False))
        return f"tokens: {show_tokens(self.vocabulary, batch['tokens'][row], self.pad)}\nmasked: {found}"
