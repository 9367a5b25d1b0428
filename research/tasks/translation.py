"""Translation, and any other mapping of one sequence to another."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import sacrebleu

from research.data.loader import Dataset
from research.data.text import SentencePairs
from research.data.tokenizer import BOS, EOS, PAD, Tokenizer, TrainedTokenizer
from research.decoding.cache import init_cache
from research.decoding.generate import generate
from research.decoding.sampling import greedy
from research.errors import UserError
from research.tasks.losses import cross_entropy, weighted
from research.tasks.task import Apply, Metrics
from research.tasks.vocabulary import show_tokens, vocabulary_of_run


@dataclasses.dataclass(frozen=True)
class Translation:
    """Source text to target text with one joint vocabulary; teacher-forced training, greedy decoding.

    max_length: tokens of either side with its end marker; longer training pairs are left out.
    """

    tokenizer: Tokenizer
    max_length: int = 128
    label_smoothing: float = 0.1
    vocabulary: TrainedTokenizer | None = None

    pad: ClassVar[int | None] = PAD
    scored: ClassVar[bool] = True

    def prepare(self, source: Any, folder: Path) -> "Translation":
        def texts():
            return (example[side] for example in source.examples("train") for side in ("source", "target"))

        return dataclasses.replace(self, vocabulary=vocabulary_of_run(self.tokenizer, texts, folder))

    def model_fields(self) -> dict[str, Any]:
        return {"vocab_size": self.vocabulary.vocab_size}

    def dataset(self, examples: Sequence[Mapping[str, Any]], *, train: bool, seed: int) -> Dataset:
        pairs = self._pairs(examples)
        if not train:
            return pairs
        fitting = np.flatnonzero(np.maximum(pairs.source.lengths(), pairs.target.lengths() - 1) <= self.max_length)
        if not len(fitting):
            raise UserError(f"every training pair is longer than task.max_length {self.max_length}: use a larger one")
        return pairs if len(fitting) == len(pairs) else self._pairs([examples[index] for index in fitting])

    def questions(self, examples: Sequence[Mapping[str, Any]]) -> Dataset:
        for number, example in enumerate(examples, 1):
            if not example["source"].strip():
                raise UserError(f"input {number} is empty: give a text to translate")
        pairs = self._pairs([{"source": example["source"], "target": ""} for example in examples])
        too_long = np.flatnonzero(pairs.source.lengths() > self.max_length)
        if len(too_long):
            raise UserError(
                f"input {too_long[0] + 1} has {pairs.source.lengths()[too_long[0]]} tokens, task.max_length is "
                f"{self.max_length}: split the text, or train with a larger task.max_length"
            )
        return pairs

    def _pairs(self, examples: Sequence[Mapping[str, Any]]) -> SentencePairs:
        examples = list(examples)
        source, target = (
            self.vocabulary.encode_batch([example[side] for example in examples]) for side in ("source", "target")
        )
        return SentencePairs.from_lists(source, target, self.max_length)

    def model_inputs(self, batch: Mapping[str, jax.Array]) -> tuple:
        return batch["source"], batch["target_input"], batch["source"] != PAD

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[Metrics, Mapping[str, Any]]:
        logits, updates = apply(*self.model_inputs(batch))
        labels = batch["target_output"]
        smoothed, likelihood = cross_entropy(logits, labels, self.label_smoothing)
        weights = (labels != PAD) * batch["weight"][:, None]
        right = (logits.argmax(axis=-1) == labels).astype(jnp.float32)
        metrics = {
            "loss": weighted(smoothed, weights),
            "nats_per_token": weighted(likelihood, weights),
            "token_accuracy": weighted(right, weights),
        }
        return metrics, updates

    def predict(self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> jax.Array:
        """Greedy translations, int32 [batch, max_length + 1]: BOS, tokens, EOS, then PAD."""
        source, length = batch["source"], self.max_length + 1
        valid = source != PAD

        def decode(tokens, cache, index, memory=None):
            logits, updates = model.apply(
                {**variables, "cache": cache},
                tokens,
                memory,
                valid,
                cache_index=index,
                method="decode",
                mutable=["cache"],
            )
            return logits, updates["cache"]

        memory = model.apply(variables, source, valid, method="encode")
        prompt = jnp.full((len(source), 1), BOS, jnp.int32)
        full = jnp.zeros((len(source), length), jnp.int32)
        cache = init_cache(model, full, memory, valid, method="decode")
        # The encoder's keys and values are projected once, into the cache.
        _, cache = decode(prompt, cache, jnp.int32(0), memory)
        return generate(
            decode,
            cache,
            prompt,
            jnp.ones(len(source), jnp.int32),
            max_length=length,
            end_token=EOS,
            pad_token=PAD,
            choose=greedy,
            rng=jax.random.key(0),
        )

    def answer(self, raw: np.ndarray) -> dict[str, Any]:
        return {"text": self.vocabulary.decode(raw[1:])}

    def score(self, answers: Sequence[Mapping[str, Any]], examples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        texts, references = [answer["text"] for answer in answers], [example["target"] for example in examples]
        exact = np.mean([text == reference for text, reference in zip(texts, references, strict=True)])
        return {"exact_match": float(exact), "bleu": sacrebleu.corpus_bleu(texts, [references]).score}

    def show(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        return "\n".join(
            f"{name:>13}: {show_tokens(self.vocabulary, batch[name][row], PAD)}"
            for name in ("source", "target_input", "target_output")
        )
