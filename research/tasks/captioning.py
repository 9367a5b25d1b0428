"""Captions of images, written token by token."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from research.data.rows import Rows
from research.decoding.sampling import greedy, sampler
from research.errors import UserError
from research.metrics.captions import CaptionScorer
from research.models.captioner import Captioner
from research.ranges import ANSWERING, Range, Rate, Seed, Temperature
from research.tasks.captions import CaptionTask
from research.tasks.logits import Logits
from research.tasks.task import PATCHES, Apply, Example, Metrics, Scorer, View
from research.tasks.text_generation import write, written_logits, written_metrics
from research.tasks.vocabulary import rules_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Captioning(CaptionTask):
    """{"image", "caption"}; teacher-forced training, then greedy decoding, beam search or sampling.

    beam_size: hypotheses of beam search; 1 writes one token after the other: the most probable or, with a temperature,
    one drawn by `sample_seed` from the probabilities. length_penalty: alpha of the beams' scores (see `beam_search`).
    """

    label_smoothing: Rate = 0.1
    beam_size: Annotated[int, Range(1, 1000), ANSWERING] = 1
    length_penalty: Annotated[float, Range(0, 10), ANSWERING] = 0.6
    temperature: Annotated[Temperature | None, ANSWERING] = None
    sample_seed: Annotated[Seed, ANSWERING] = 0

    def __post_init__(self):
        if self.temperature is not None and self.beam_size > 1:
            raise UserError(f"a beam_size of {self.beam_size} draws nothing: leave temperature out, or set it to 1")

    def model_fields(self) -> dict[str, Any]:
        return {"vocab_size": self.vocabulary.vocab_size}

    def with_head(self, model: nn.Module) -> nn.Module:
        if not isinstance(model, Captioner):
            raise UserError(f"model {type(model).__name__} does not write captions: use captioner")
        if model.positions == "learned" and self.length > model.max_length:
            raise UserError(f"task.length {self.length} exceeds model.max_length {model.max_length}: use at most that")
        return model

    def rows(self, examples: Sequence[Example], *, train: bool, seed: int) -> Rows:
        return self.captioned(examples, train=train, seed=seed)

    def questions(self, examples: Sequence[Example]) -> Rows:
        return self.images(examples, train=False, seed=0)

    def standalone(self) -> dict[str, Any]:
        photo = self.photo and self.photo.evaluated
        own = {"input": self.image_input("image", photo=photo), "answer": {"kind": "written"}}
        return {**own, "tokenizer": rules_of(self.vocabulary)}

    def model_inputs(self, batch: Mapping[str, Any]) -> tuple:
        return self.normalised(batch["image"]), batch["caption"][:, :-1]

    def num_tokens(self, batch: Mapping[str, Any]) -> int | None:
        return batch["caption"].size if "caption" in batch else None

    def logits(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[tuple[Logits, ...], Mapping[str, Any]]:
        return written_logits(apply, self.model_inputs(batch), batch["caption"][:, 1:], batch["weight"], self.pad)

    def metrics(self, logits: Sequence[Logits], batch: Mapping[str, jax.Array]) -> Metrics:
        return written_metrics(logits, batch["caption"][:, 1:], self.label_smoothing)

    def predict(self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> jax.Array:
        """Captions, int32 [batch, length]: start, tokens, end, then PAD."""
        memory: Any = model.apply(variables, self.normalised(batch["image"]), method="encode")
        return write(
            model,
            variables,
            memory,
            jnp.ones(memory.shape[:2], bool),
            self.vocabulary,
            max_length=self.length,
            limit=jnp.full(memory.shape[0], self.length),
            beam_size=self.beam_size,
            length_penalty=self.length_penalty,
            choose=greedy if self.temperature is None else sampler(self.temperature),
            rng=jax.random.key(self.sample_seed),
        )

    def answer(self, example: Example, rows: Sequence[np.ndarray]) -> dict[str, Any]:
        (tokens,) = rows
        return {"text": self.vocabulary.decode(tokens[1:])}

    def scorer(self) -> Scorer:
        return CaptionScorer()

    def sample(self, example: Example, answer: Mapping[str, Any]) -> dict[str, Any]:
        sample = {"image": self.questions([example]).first()["image"][0], "answer": answer["text"]}
        return sample | ({"reference": example["caption"]} if "caption" in example else {})

    def view(self, example: Example, answer: Mapping[str, Any]) -> View | None:
        """Where each token of the answer looked as it was written; None of an empty answer."""
        if not answer["text"].strip():
            return None
        batch = {"image": self.questions([example]).first()["image"], "caption": self.tokens([answer["text"]])}
        tokens = self.named(batch["caption"][0])
        return View(
            answer["text"],
            self.model_inputs(batch),
            {"read": tokens[:-1], "written": tokens[1:]},
            sides,
            batch["image"][0],
        )


def sides(path: str) -> tuple[str, str]:
    """What the queries and the keys of a captioner's layer are; a decoder's query is named by the token it writes."""
    if path.startswith("image/"):
        return PATCHES, PATCHES
    return "written", PATCHES if "cross" in path else "read"
