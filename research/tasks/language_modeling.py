"""Language modelling: the next token of running text."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from research.data.plain_text import cut
from research.data.rows import Rows
from research.data.text import Prompts, TokenWindows, sixteen_bits
from research.data.texts import Chunk, beginnings, chunks_of_texts
from research.data.token_store import arrays_of, highest
from research.data.tokenizer import Tokenizer, TrainedTokenizer
from research.decoding.cache import init_cache
from research.decoding.generate import Generation, State
from research.decoding.sampling import sampler
from research.errors import UserError
from research.layers.masks import causal_mask, segment_mask
from research.models.contract import SeparateTexts
from research.ranges import ANSWERING, Count, Range, Seed, Share, Size, Temperature
from research.tasks.logits import Logits, vocabulary_sums
from research.tasks.task import PREPARED, Apply, Example, Metrics, Task, View
from research.tasks.vocabulary import (
    given_text,
    read_and_written,
    remarks_on,
    rules_of,
    show_tokens,
    token_ids,
    vocabulary_of_run,
)
from research.weights.vocabularies import generation_written, vocabulary_of

PREFILL = 64
"""Tokens of the prompts that go through the model at once."""


@dataclasses.dataclass(frozen=True)
class LanguageModeling(Task):
    """Texts cut into windows of `length` tokens; reported in nats per token and bits per byte of the texts' UTF-8.

    separate: in training and evaluation, texts that share a window do not see each other, and each counts its positions
    from 0; otherwise a text sees what stands before it, whatever that is.
    stride: tokens by which a window of evaluation lies behind the one before; of what both hold, only the first counts,
    so that most tokens are predicted from at least `length` - `stride` others. `length` unless given.
    temperature, top_k, top_p and sample_seed rule the continuations of `predict`, which fill the model's context unless
    new_tokens says how many tokens they have at most.
    repetition_penalty: above 1 makes what was said less probable. stop: texts before which a continuation ends.
    """

    tokenizer: Tokenizer
    length: Size
    separate: bool = False
    temperature: Annotated[Temperature, ANSWERING] = 0.8
    top_k: Annotated[Count | None, ANSWERING] = None
    top_p: Annotated[Share | None, ANSWERING] = None
    sample_seed: Annotated[Seed, ANSWERING] = 0
    repetition_penalty: Annotated[float, ANSWERING, Range(1, 100)] = 1.0
    stop: Annotated[tuple[str, ...], ANSWERING] = ()
    new_tokens: Annotated[Count | None, ANSWERING] = None
    stride: Annotated[Size | None, ANSWERING] = None
    vocabulary: TrainedTokenizer = PREPARED

    text_marks = "none"

    @property
    def pad(self) -> int:
        return -1

    def prepare(self, source: Any, folder: Path) -> "LanguageModeling":
        vocabulary = vocabulary_of_run(self.tokenizer, source, ("text",), folder)
        return dataclasses.replace(self, vocabulary=vocabulary)

    @classmethod
    def from_published(cls, published: Any, folder: Path) -> dict[str, Any]:
        model = published.model
        vocabulary_of(published.folder, model.vocab_size).save(folder / "tokenizer.json")
        tokenizer = {"kind": "bpe", "specials": False, "vocab_size": model.vocab_size}
        fields = {"length": model.max_length, "tokenizer": tokenizer}
        return {"task": fields, "data": {"name": "text_file", "path": "my_text.txt"}}

    def published(self, model: Any) -> dict[str, Any]:
        return generation_written(self.vocabulary, model.max_length)

    def model_fields(self) -> dict[str, Any]:
        return {"vocab_size": self.vocabulary.vocab_size}

    def with_head(self, model: nn.Module) -> nn.Module:
        if self.separate and not isinstance(model, SeparateTexts):
            raise UserError(
                f"model {type(model).__name__} cannot keep texts apart: set task.separate to False, or use gpt"
            )
        return model

    def rows(self, examples: Sequence[Example], *, train: bool, seed: int) -> Rows:
        if self.stride is not None and self.stride > self.length:
            raise UserError(
                f"stride {self.stride} leaves tokens out between windows of {self.length}: use at most that"
            )
        several = len(examples) > 1
        if several and self.vocabulary.eos is None:
            raise UserError(
                f"{len(examples)} texts need a mark between them: set task.tokenizer.specials to True, or give one"
            )
        arrays = arrays_of(
            functools.partial(chunks_of_texts, examples),
            functools.partial(self._encode, several=several),
            {"tokens": self.vocabulary.dtype, "bytes": np.dtype(np.uint16)},
            getattr(examples, "origin", None),
            {"vocabulary": self.vocabulary.digest, "several": several},
            self._sound,
        )
        options = (seed, None) if train else (None, self.stride)
        return TokenWindows(arrays["tokens"], arrays["bytes"], self.length, *options)

    def _sound(self, arrays: Mapping[str, np.ndarray]) -> bool:
        """Whether these are ids of the vocabulary, and as many numbers of bytes."""
        tokens, sizes = arrays["tokens"], arrays["bytes"]
        return len(tokens) == len(sizes) and highest(tokens) < self.vocabulary.vocab_size

    def _encode(self, chunk: Chunk, several: bool) -> tuple[Mapping[str, np.ndarray], int]:
        """Tokens of pieces of texts, and the bytes of UTF-8 of each: together, all of the pieces'.

        What lies before a token and belongs to none, such as spaces that a tokenizer drops, is counted with it, what
        follows the last one with that. One of several texts ends with EOS.
        """
        # No token spans a line break: line by line, a long text is encoded in parallel.
        tokens, ends = self.vocabulary.encode_lines([line for text, _ in chunk for line in cut(text)])
        bounds = np.cumsum([len(text.encode()) for text, _ in chunk])
        if several:
            after = bounds[[last for _, last in chunk]]
            places = np.searchsorted(ends, after, side="right")
            tokens, ends = np.insert(tokens, places, self.vocabulary.end_token), np.insert(ends, places, after)
        if len(tokens) * 65535 < bounds[-1]:
            raise UserError(
                f"{bounds[-1]:,} bytes of the text hold {len(tokens)} tokens of this tokenizer: check the text, or use "
                "another task.tokenizer"
            )
        ends[-1:] = bounds[-1:]
        return {"tokens": tokens, "bytes": sixteen_bits(np.diff(ends, prepend=0))}, int(bounds[-1])

    def remarks(self, example: Example) -> list[str]:
        return remarks_on(example["text"], "the text", self.vocabulary, None)

    def questions(self, examples: Sequence[Example]) -> Rows:
        prompts = [self.vocabulary.encode(example["text"]) for example in examples]
        for number, prompt in enumerate(prompts, 1):
            if not 0 < len(prompt) < self.length:
                raise UserError(
                    f"prompt {number} has {len(prompt)} tokens: give between 1 and {self.length - 1}, "
                    "so that the context has room for an answer"
                )
        return Prompts.from_lists(prompts, self.length)

    def standalone(self) -> dict[str, Any]:
        given = {"kind": "prompt", "length": self.length, "arrays": ["tokens", "prompt_length"], "fills": {}}
        answer = {"kind": "continued", "stop": list(self.stop)}
        return {"input": given, "answer": answer, "tokenizer": rules_of(self.vocabulary)}

    def token_ids(self) -> Mapping[str, Mapping[str, int]]:
        return token_ids(self)

    def example(self, item: Any) -> Example:
        return {"text": given_text(item)}

    def shown(self, examples: Sequence[Example], count: int) -> list[Example]:
        """Beginnings of lines of the text, or of the texts, evenly spaced, to be continued."""
        texts = beginnings(examples, count, 64 * self.length)
        prompts = [prompt for text in texts if (prompt := self.beginning(text)) is not None]
        return [{"text": prompt} for prompt in dict.fromkeys(prompts)]

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

    def num_tokens(self, batch: Mapping[str, Any]) -> int:
        return batch["tokens"][:, :-1].size

    def logits(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[tuple[Logits, ...], Mapping[str, Any]]:
        inputs, method = self.model_inputs(batch), "features"
        if self.separate:
            inputs, method = (*inputs, segments_of(inputs[0], self.vocabulary.end_token)), "separate_features"
        (states, table), updates = apply(*inputs, method=method)
        labels = batch["tokens"][:, 1:]
        weights = (labels >= 0) * batch["weight"][:, None]
        if "fresh" in batch:
            weights *= batch["fresh"]
        return (Logits(states, weights, table),), updates

    def metrics(self, logits: Sequence[Logits], batch: Mapping[str, jax.Array]) -> Metrics:
        (each,) = logits
        weights = each.weights
        nats, _, _ = vocabulary_sums(each, jnp.maximum(batch["tokens"][:, 1:], 0))
        num_bytes = (batch["bytes"][:, 1:] * weights).sum()
        return {"loss": (nats, weights.sum()), "bits_per_byte": (nats / math.log(2), num_bytes)}

    def predict(self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> jax.Array:
        """Prompts and their sampled continuations, int32 [batch, length]."""
        generation = self._generation(model, variables, batch)
        return generation.advance(self._begin(generation, model), self.length).tokens

    def stream(
        self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array], example: Example
    ) -> Iterator[np.ndarray]:
        """The rows of `predict` as they grow. Those are left out that end within a letter or may begin a stop text."""
        begin, advance = _programs(self, model)
        state, until = begin(variables, batch), int(batch["prompt_length"][0])
        while True:
            state = advance(variables, batch, state, until)
            tokens = np.asarray(state.tokens)[0]
            text = self.vocabulary.decode(tokens[tokens >= 0])
            whole = bool(state.finished[0]) or until >= self.length or len(self._stopped(example, text)) < len(text)
            if whole or not self._unsure(text):
                yield tokens
            if whole:
                return
            until += 1

    def _generation(self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> Generation:
        def step(tokens, cache, index):
            logits, updates = model.apply({**variables, "cache": cache}, tokens, cache_index=index, mutable=["cache"])
            return logits, updates["cache"]

        return Generation(
            step,
            batch["tokens"],
            batch["prompt_length"],
            end_token=self.vocabulary.end_token,
            pad_token=-1,
            choose=sampler(self.temperature, self.top_k, self.top_p),
            rng=jax.random.key(self.sample_seed),
            penalty=self.repetition_penalty,
            limit=None if self.new_tokens is None else batch["prompt_length"] + self.new_tokens,
        )

    def _begin(self, generation: Generation, model: nn.Module) -> State:
        prompts = generation.prompt
        return generation.begin(init_cache(model, prompts), self.length, min(PREFILL, prompts.shape[1]))

    def _unsure(self, text: str) -> bool:
        """Whether the next token may change how a text ends."""
        beginnings = (stop[:count] for stop in self.stop for count in range(1, len(stop)))
        return text.endswith(("\ufffd", *beginnings))

    def _stopped(self, example: Example, text: str) -> str:
        prompt = len(example["text"])
        ends = [end for stop in self.stop if stop and (end := text.find(stop, prompt)) >= 0]
        return text[: min(ends, default=len(text))]

    def answer(self, example: Example, rows: Sequence[np.ndarray]) -> dict[str, Any]:
        (tokens,) = rows
        return {"text": self._stopped(example, self.vocabulary.decode(tokens[tokens >= 0]))}

    def sample(self, example: Example, answer: Mapping[str, Any]) -> dict[str, Any]:
        return {"prompt": example["text"], "answer": answer["text"].removeprefix(example["text"])}

    def view(self, example: Example, answer: Mapping[str, Any]) -> View:
        tokens = self.vocabulary.encode(answer["text"])[: self.length]
        return read_and_written(example["text"], tokens[:-1], tokens[1:], self.vocabulary)

    def masks(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        mask = causal_mask(batch["tokens"].shape[1] - 1)
        if not self.separate:
            return {"decoder: causal": np.asarray(mask)[0, 0]}
        segments = segments_of(jnp.asarray(batch["tokens"][:1, :-1]), self.vocabulary.end_token)
        return {"decoder: causal, within a text": np.asarray(mask & segment_mask(segments, segments))[0, 0]}

    def show(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        return f"tokens: {show_tokens(self.vocabulary, batch['tokens'][row], -1)}"


@functools.lru_cache(maxsize=8)
def _programs(task: LanguageModeling, model: nn.Module) -> tuple[Callable[..., State], Callable[..., State]]:
    """The programs of `LanguageModeling.stream`, which later streams of the same task and model use again."""

    def begin(variables, batch):
        return task._begin(task._generation(model, variables, batch), model)

    def advance(variables, batch, state, until):
        return task._generation(model, variables, batch).advance(state, until)

    return jax.jit(begin), jax.jit(advance)


def segments_of(tokens: jax.Array, end_token: int) -> jax.Array:
    """The number of each token's text in its row, int32 [batch, length]; an end marker belongs to the text it ends."""
    ends = (tokens == end_token).astype(jnp.int32)
    return jnp.cumsum(ends, axis=1) - ends
