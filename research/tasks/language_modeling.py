"""Language modelling: the next token of running text."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from research.data.loader import Dataset
from research.data.plain_text import cut
from research.data.text import Prompts, TokenWindows
from research.data.tokenizer import Tokenizer, TrainedTokenizer
from research.decoding.cache import init_cache
from research.decoding.generate import generate
from research.decoding.sampling import sampler
from research.errors import UserError
from research.ranges import AFTERWARDS, Count, Seed, Share, Size, Temperature
from research.tasks.losses import vocabulary_loss
from research.tasks.task import Apply, Metrics
from research.tasks.vocabulary import show_tokens, vocabulary_of_run


@dataclasses.dataclass(frozen=True)
class LanguageModeling:
    """Texts cut into windows of `length` tokens; reported in nats per token and bits per byte of the texts' UTF-8.

    temperature, top_k, top_p and sample_seed rule the continuations of `predict`, which fill the model's context.
    """

    tokenizer: Tokenizer
    length: Size
    temperature: Annotated[Temperature, AFTERWARDS] = 0.8
    top_k: Annotated[Count | None, AFTERWARDS] = None
    top_p: Annotated[Share | None, AFTERWARDS] = None
    sample_seed: Annotated[Seed, AFTERWARDS] = 0
    vocabulary: TrainedTokenizer | None = None

    pad: ClassVar[int | None] = -1
    scored: ClassVar[bool] = False

    def prepare(self, source: Any, folder: Path) -> "LanguageModeling":
        vocabulary = vocabulary_of_run(self.tokenizer, source, ("text",), folder)
        return dataclasses.replace(self, vocabulary=vocabulary)

    def model_fields(self) -> dict[str, Any]:
        return {"vocab_size": self.vocabulary.vocab_size}

    def dataset(self, examples: Sequence[Mapping[str, Any]], *, train: bool, seed: int) -> Dataset:
        tokens, sizes = self._encode([example["text"] for example in examples])
        return TokenWindows(tokens, sizes, self.length, seed if train else None)

    def _encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of all texts, and the bytes of UTF-8 of each, int32 [tokens]: together, all of the texts'.

        What lies before a token and belongs to none, such as spaces that a tokenizer drops, is counted with it, what
        follows the last one with that. Two texts or more end with EOS.
        """
        # No token spans a line break: line by line, a long text is encoded in parallel.
        tokens, ends = self.vocabulary.encode_lines([line for text in texts for line in cut(text)])
        bounds = np.cumsum([len(text.encode()) for text in texts])
        if len(texts) > 1:
            if not self.vocabulary.specials:
                raise UserError(
                    f"{len(texts)} texts need a mark between them: set task.tokenizer.specials to True, or give one"
                )
            places = np.searchsorted(ends, bounds, side="right")
            tokens, ends = np.insert(tokens, places, self.vocabulary.eos), np.insert(ends, places, bounds)
        ends[-1:] = bounds[-1:]
        return tokens, np.diff(ends, prepend=0).astype(np.int32)

    def questions(self, examples: Sequence[Mapping[str, Any]]) -> Dataset:
        prompts = [self.vocabulary.encode(example["text"]) for example in examples]
        for number, prompt in enumerate(prompts, 1):
            if not 0 < len(prompt) < self.length:
                raise UserError(
                    f"prompt {number} has {len(prompt)} tokens: give between 1 and {self.length - 1}, "
                    "so that the context has room for an answer"
                )
        return Prompts.from_lists(prompts, self.length)

    def beginning(self, text: str) -> str | None:
        """The start of a text as a prompt that `questions` takes, about a quarter of the context; None if none is."""
        text = text[: 64 * self.length]
        _, ends = self.vocabulary.encode_lines([text])
        for count in range(max(1, self.length // 4), self.length):
            prompt = text.encode()[: next(iter(ends[:count][::-1]), 0)].decode(errors="ignore")  # whole characters
            if 0 < len(self.vocabulary.encode(prompt)) < self.length:  # a part may be cut in more tokens than the whole
                return prompt
        return None

    def model_inputs(self, batch: Mapping[str, jax.Array]) -> tuple:
        return (jnp.maximum(batch["tokens"][:, :-1], 0),)

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[Metrics, Mapping[str, Any]]:
        (states, table), updates = apply(*self.model_inputs(batch), method="features")
        labels = batch["tokens"][:, 1:]
        weights = (labels >= 0) * batch["weight"][:, None]
        labels = jnp.maximum(labels, 0)
        nats, _, _ = vocabulary_loss(states, table, labels, weights)
        num_bytes = (batch["bytes"][:, 1:] * weights).sum()
        return {"loss": (nats, weights.sum()), "bits_per_byte": (nats / math.log(2), num_bytes)}, updates

    def predict(self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> jax.Array:
        """Prompts and their sampled continuations, int32 [batch, length]."""
        prompts = batch["tokens"]

        def step(tokens, cache, index):
            logits, updates = model.apply({**variables, "cache": cache}, tokens, cache_index=index, mutable=["cache"])
            return logits, updates["cache"]

        return generate(
            step,
            init_cache(model, prompts),
            prompts,
            batch["prompt_length"],
            max_length=self.length,
            end_token=self.vocabulary.end_token,
            pad_token=-1,
            choose=sampler(self.temperature, self.top_k, self.top_p),
            rng=jax.random.key(self.sample_seed),
        )

    def answer(self, raw: np.ndarray) -> dict[str, Any]:
        return {"text": self.vocabulary.decode(raw[raw >= 0])}

    def score(self, answers: Sequence[Mapping[str, Any]], examples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        return {}

    def signatures(self) -> dict[str, str]:
        return {}

    def show(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        return f"tokens: {show_tokens(self.vocabulary, batch['tokens'][row], -1)}"
