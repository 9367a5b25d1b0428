"""Translation, and any other mapping of one sequence to another."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from sacrebleu.metrics import CHRF

from research.analysis.alignment import words_of
from research.data.rows import Rows
from research.data.text import Ragged, SentencePairs
from research.data.token_store import arrays_of, highest
from research.data.tokenizer import Tokenizer, TrainedTokenizer
from research.errors import UserError
from research.layers.masks import causal_mask, padding_mask
from research.metrics.text import TextScorer, remove_bpe
from research.ranges import AFTERWARDS, ANSWERING, Range, Rate, Size
from research.tasks.logits import Logits
from research.tasks.task import PREPARED, Apply, Example, Metrics, Task, View
from research.tasks.text_generation import write, written_logits, written_metrics
from research.tasks.vocabulary import (
    fields_of_pairs,
    given_text,
    padding_of,
    remarks_on,
    rules_of,
    show_tokens,
    token_ids,
    vocabularies_of_pairs,
)
from research.weights.vocabularies import generation_written, pairs_of

LONGEST = 512
"""Tokens of a published model's texts, as T5 and Marian were trained with."""
CHUNK = 8192
"""Pairs that are encoded at once."""


@dataclasses.dataclass(frozen=True)
class Translation(Task):
    """Source text to target text; teacher-forced training, beam search or greedy decoding.

    tokenizer: of both sides' joint vocabulary, or, beside a target_tokenizer, of the source's.
    max_length: tokens of either side with its end marker; longer training pairs are left out.
    beam_size: hypotheses of beam search; 1 decodes greedily.
    length_penalty: alpha of the beams' scores (see `beam_search`).
    extra_length: tokens by which a translation may be longer than its source (Vaswani et al. 2017, section 6.1).
    scores: names of `research.metrics.text`. target_language: a code such as "de", for those that tokenise by language.
    join_bpe: joins "ka@@ ra@@ te" before scoring, for files that come split by subword-nmt.
    """

    tokenizer: Tokenizer
    max_length: Size = 128
    label_smoothing: Rate = 0.1
    beam_size: Annotated[int, Range(1, 1000), ANSWERING] = 1
    length_penalty: Annotated[float, Range(0, 10), ANSWERING] = 0.6
    extra_length: Annotated[int, Range(0, 4096), ANSWERING] = 50
    scores: Annotated[tuple[str, ...], AFTERWARDS] = ("exact_match", "bleu")
    target_language: Annotated[str | None, AFTERWARDS] = None
    join_bpe: Annotated[bool, AFTERWARDS] = False
    target_tokenizer: Tokenizer | None = None
    vocabulary: TrainedTokenizer = PREPARED
    target_vocabulary: TrainedTokenizer | None = None

    text_marks = "end"

    @property
    def pad(self) -> int:
        return padding_of(self.vocabulary)

    def __post_init__(self):
        self.scorer()  # an unknown score is an error now, not after training

    def prepare(self, source: Any, folder: Path) -> "Translation":
        vocabulary, target = vocabularies_of_pairs(self.tokenizer, self.target_tokenizer, source, folder)
        return dataclasses.replace(self, vocabulary=vocabulary, target_vocabulary=target)

    @classmethod
    def from_published(cls, published: Any, folder: Path) -> dict[str, Any]:
        rows = published.model.vocab_size
        pairs_of(published.folder, published.config, rows).save(folder / "tokenizer.json")
        tokenizer = {"kind": "unigram", "vocab_size": max(rows, 512)}  # one is there, so that none of these is made
        fields = {"tokenizer": tokenizer, "max_length": min(published.model.max_length, LONGEST)}
        data = {"name": "parallel_text", "train_source": "my_train.en", "train_target": "my_train.de"}
        return {"task": fields, "data": data}

    @property
    def text_length(self) -> int:
        return self.max_length

    def published(self, model: Any) -> dict[str, Any]:
        longest = min(self.max_length + self.extra_length + 1, model.max_length)
        return generation_written(self._target, longest, start=self._target.start_token, num_beams=self.beam_size)

    @property
    def _target(self) -> TrainedTokenizer:
        return self.target_vocabulary or self.vocabulary

    def _vocabulary_of(self, name: str) -> TrainedTokenizer:
        """That of an array of a batch."""
        return self.vocabulary if name == "source" else self._target

    def model_fields(self) -> dict[str, Any]:
        return fields_of_pairs(self.vocabulary, self._target)

    def token_ids(self) -> Mapping[str, Mapping[str, int]]:
        return token_ids(self)

    def example(self, item: Any) -> Example:
        return {"source": given_text(item)}

    def rows(self, examples: Sequence[Example], *, train: bool, seed: int) -> Rows:
        pairs = self._pairs(examples)
        if not train:
            return pairs
        fitting = np.flatnonzero(np.maximum(pairs.source.lengths(), pairs.target.lengths() - 1) <= self.max_length)
        if not len(fitting):
            raise UserError(f"every training pair is longer than task.max_length {self.max_length}: use a larger one")
        return pairs.part(fitting)

    def remarks(self, example: Example) -> list[str]:
        sides = {"source": self.vocabulary, "target": self._target}
        longest = self.max_length - 1  # and the end marker
        return [remark for side, each in sides.items() for remark in remarks_on(example[side], side, each, longest)]

    def questions(self, examples: Sequence[Example]) -> Rows:
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

    def standalone(self) -> dict[str, Any]:
        fills = {"source": self.pad}
        given = {"kind": "source", "length": self.max_length, "arrays": [*fills], "fills": fills}
        own = {"input": given, "answer": {"kind": "written"}, "tokenizer": rules_of(self.vocabulary)}
        target = self.target_vocabulary
        return own if target is None else {**own, "target_tokenizer": rules_of(target)}

    def _pairs(self, examples: Sequence[Example]) -> SentencePairs:
        """Both sides of the examples; `max_length` counts either with its end marker."""
        sides = {"source": self.vocabulary, "target": self._target}
        arrays = arrays_of(
            lambda: itertools.batched(examples, CHUNK),
            self._encode,
            {side: vocabulary.dtype for side, vocabulary in sides.items()}
            | {f"{side}_lengths": np.dtype(np.int32) for side in sides},
            getattr(examples, "origin", None),
            {side: vocabulary.digest for side, vocabulary in sides.items()},
            self._sound,
        )
        source, target = (Ragged.of_lengths(arrays[side], arrays[f"{side}_lengths"]) for side in sides)
        return SentencePairs(source, target, self.max_length, self.pad)

    def _sound(self, arrays: Mapping[str, np.ndarray]) -> bool:
        """Whether these are ids of the vocabularies, in pairs whose lengths are those of the ids."""
        for side, vocabulary in {"source": self.vocabulary, "target": self._target}.items():
            tokens, lengths = arrays[side], arrays[f"{side}_lengths"]
            if highest(tokens) >= vocabulary.vocab_size or lengths.min(initial=1) < 1 or lengths.sum() != len(tokens):
                return False
        return len(arrays["source_lengths"]) == len(arrays["target_lengths"])

    def _encode(self, examples: Sequence[Example]) -> tuple[Mapping[str, np.ndarray], int]:
        sources, targets = ([example[side] for example in examples] for side in ("source", "target"))
        markers = {"source_eos": self.vocabulary.end_token, "eos": self._target.end_token}
        ids = self.vocabulary.encode_batch(sources), self._target.encode_batch(targets)
        pairs = SentencePairs.from_lists(*ids, self.max_length, bos=self._target.start_token, **markers)
        arrays = {"source": pairs.source.tokens, "target": pairs.target.tokens}
        arrays |= {"source_lengths": pairs.source.lengths(), "target_lengths": pairs.target.lengths()}
        return arrays, sum(len(text.encode()) + 1 for text in sources + targets)

    def model_inputs(self, batch: Mapping[str, Any]) -> tuple:
        return batch["source"], batch["target_input"], batch["source"] != self.pad

    def num_tokens(self, batch: Mapping[str, Any]) -> int:
        return batch["source"].size + batch["target_input"].size

    def logits(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[tuple[Logits, ...], Mapping[str, Any]]:
        return written_logits(apply, self.model_inputs(batch), batch["target_output"], batch["weight"], self.pad)

    def metrics(self, logits: Sequence[Logits], batch: Mapping[str, jax.Array]) -> Metrics:
        return written_metrics(logits, batch["target_output"], self.label_smoothing)

    def predict(self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> jax.Array:
        """Translations, int32 [batch, source length + extra_length + 1]: BOS, tokens, EOS, then PAD.

        A row's own source decides how long its translation may be; a model with learned positions ends at its last one.
        """
        source = batch["source"]
        valid, max_length = source != self.pad, source.shape[1] + self.extra_length + 1
        if getattr(model, "positions", None) == "learned":
            max_length = min(max_length, model.max_length)

        memory: Any = model.apply(variables, source, valid, method="encode")
        return write(
            model,
            variables,
            memory,
            valid,
            self._target,
            max_length=max_length,
            limit=valid.sum(axis=1) + self.extra_length + 1,
            beam_size=self.beam_size,
            length_penalty=self.length_penalty,
        )

    def answer(self, example: Example, rows: Sequence[np.ndarray]) -> dict[str, Any]:
        (tokens,) = rows
        return {"text": self._target.decode(tokens[1:])}

    def scorer(self) -> TextScorer:
        return TextScorer(self.scores, self.target_language, self.join_bpe)

    def sample(self, example: Example, answer: Mapping[str, Any]) -> dict[str, Any]:
        clean = remove_bpe if self.join_bpe else str
        sample = {"source": clean(example["source"]), "answer": clean(answer["text"])}
        if "target" in example:
            sample["reference"] = clean(example["target"])
            sample["chrf"] = CHRF().sentence_score(sample["answer"], [sample["reference"]]).score
        return sample

    def view(self, example: Example, answer: Mapping[str, Any]) -> View:
        pair = self._pairs([{"source": example["source"], "target": answer["text"]}])
        length = min(1 << int(pair.lengths()[0] - 1).bit_length(), self.max_length)  # few programs for many views
        batch = pair.batch(np.zeros(1, np.int64), np.zeros(1, np.int64), length)
        # Counted, since the mark that a text starts with may be that of padding.
        source, target = int(pair.source.lengths()[0]), int(pair.target.lengths()[0]) - 1
        counts = {"source": source, "target_input": target, "target_output": target}
        tokens = {
            side: [self._vocabulary_of(side).id_to_token(int(token)) for token in batch[side][0][:count]]
            for side, count in counts.items()
        }
        clean = remove_bpe if self.join_bpe else str
        title = f"{clean(example['source'])} → {clean(answer['text'])}"
        return View(title, self.model_inputs(batch), tokens, sides)

    def words(self, example: Example) -> tuple[np.ndarray, np.ndarray]:
        found = []
        for text, vocabulary in ((example["source"], self.vocabulary), (example["target"], self._target)):
            ((_, places),) = vocabulary.encode_with_places([text])
            found.append(words_of(text, places))
        return found[0], found[1]

    def masks(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        sources, targets = batch["source"].shape[1], batch["target_input"].shape[1]
        valid = np.asarray(padding_mask(jnp.asarray(batch["source"] != self.pad)))[0, 0]
        return {
            "encoder: padding": np.broadcast_to(valid, (sources, sources)),
            "decoder: causal": np.asarray(causal_mask(targets))[0, 0],
            "cross: padding": np.broadcast_to(valid, (targets, sources)),
        }

    def show(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        return "\n".join(
            f"{name:>13}: {show_tokens(self._vocabulary_of(name), batch[name][row], self.pad)}"
            for name in ("source", "target_input", "target_output")
        )


def sides(path: str) -> tuple[str, str]:
    """What the queries and the keys of a translation model's layer are, by their names in a batch.

    A decoder's query stands where its next token is written; the queries are named by what they write.
    """
    queries = "source" if path.startswith("encoder") else "target_output"
    keys = "target_input" if path.startswith("decoder") and "cross" not in path else "source"
    return queries, keys
