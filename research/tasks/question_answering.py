"""Answers that stand in a text: where in its context the answer to a question begins and ends (BERT, section 4.2)."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from research.data.lines import BLOCK
from research.data.rows import Rows
from research.errors import UserError
from research.metrics.squad import SquadScorer
from research.ranges import ANSWERING, Number, Size
from research.tasks.logits import Logits
from research.tasks.losses import cross_entropy, weighted
from research.tasks.task import Apply, Example, Metrics, Scorer
from research.tasks.text import TextTask, parted
from research.tasks.vocabulary import given_text, remarks_on

MASKED = -1e9
"""In place of the logit of padding."""


class Window(NamedTuple):
    """A row: the example's number, its tokens and segments, the place of the context's first token, and for each of
    the context's tokens in it the characters that it stands for, int64 [tokens, 2]."""

    owner: int
    tokens: np.ndarray
    segments: np.ndarray
    first: int
    places: np.ndarray


class Span(NamedTuple):
    """A possible answer: the sum of its two logits, and its first character and the one behind its last."""

    score: float
    start: int
    end: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionAnswering(TextTask):
    """{"question", "context", "answers": {"text", "answer_start"}}, as SQuAD has them. Training learns the first
    answer. A person parts question and context by a tab, or by a backslash and a t.

    length: tokens of a row. question_length: of the question, whose rest is cut. A longer context becomes several rows,
    each of which shares `overlap` tokens with the one before. no_answer: whether a question may have none (SQuAD 2.0):
    the place of [CLS] stands for that. longest_answer, candidates: tokens of an answer, and how many of the best starts
    and of the best ends are combined. null_threshold: how much more the score of no answer has to be than that of the
    best one, to be given.
    """

    length: Size = 384
    question_length: Size = 64
    overlap: Size = 128
    no_answer: bool = False
    longest_answer: Annotated[Size, ANSWERING] = 30
    candidates: Annotated[Size, ANSWERING] = 20
    null_threshold: Annotated[Number, ANSWERING] = 0.0

    def __post_init__(self):
        if self.length - self.question_length - 3 <= self.overlap:
            raise UserError(
                f"task.length {self.length} leaves no room for new words beside a question of {self.question_length} "
                f"and an overlap of {self.overlap} tokens: use a greater length, or a smaller one of the two"
            )

    @classmethod
    def from_published(cls, published: Any, folder: Path) -> dict[str, Any]:
        if (outputs := published.model.outputs) != 2:
            raise UserError(f"{published.folder} has {outputs} labels: an answer has two ends, give num_labels 2")
        fields = cls.fields_of(published, folder)
        length = min(fields["length"], cls.length)
        shares = {"question_length": min(length // 4, cls.question_length), "overlap": min(length // 4, cls.overlap)}
        fields |= {"length": length, "dropout": 0.0, **shares}
        return {"task": fields, "data": {"name": "squad", "path": "my_questions.json"}}

    def published(self, model: Any) -> dict[str, Any]:
        return {"config.json": {"pad_token_id": self.pad}}  # nothing is dropped before transformers' new layer

    def texts(self, source: Any) -> tuple[str, ...]:
        return ("question", "context")

    def with_head(self, model: nn.Module) -> nn.Module:
        return self.headed(model, 2, None)

    def example(self, item: Any) -> Example:
        question, *context = parted(given_text(item))
        if not context:
            raise UserError("an input is a question and the text that answers it: write them with a tab between them")
        return {"question": question, "context": context[0]}

    def remarks(self, example: Example) -> list[str]:
        found = remarks_on(example["question"], "the question", self.vocabulary, self.question_length)
        found += remarks_on(example["context"], "the context", self.vocabulary, None)
        return found + ["an answer is not where the context has it"] * bool(misplaced(example))

    def _windows(self, examples: Sequence[Example]) -> Iterator[Window]:
        for block in itertools.batched(enumerate(examples), BLOCK):
            questions = self.vocabulary.encode_batch([example["question"] for _, example in block])
            contexts = self.vocabulary.encode_with_places([example["context"] for _, example in block])
            for (owner, _), question, (tokens, places) in zip(block, questions, contexts, strict=True):
                question = question[: self.question_length]
                room = self.room_for_two - len(question)
                step = max(room - self.overlap, 1)
                for start in range(0, max(len(tokens) - room + step, 1), step):
                    row = self.marked(question, tokens[start : start + room].tolist())
                    first = len(question) + 1 + self.vocabulary.marks_between
                    yield Window(owner, *row, first, places[start : start + room])

    def rows(self, examples: Sequence[Example], *, train: bool, seed: int) -> Rows:
        examples = list(examples)
        self._check(examples)
        windows = list(self._windows(examples))
        ends = np.array([target(window, examples[window.owner]) for window in windows], np.int32).reshape(-1, 2)
        return self._rows(windows, {"start": ends[:, 0], "end": ends[:, 1]})

    def questions(self, examples: Sequence[Example]) -> Rows:
        return self._rows(list(self._windows(list(examples))), {})

    def _rows(self, windows: list[Window], values: Mapping[str, np.ndarray]) -> Rows:
        owner = np.array([window.owner for window in windows])
        return self.columns([(window.tokens, window.segments) for window in windows], values=values, owner=owner)

    def _check(self, examples: Sequence[Example]) -> None:
        wrong = [(number, text) for number, example in enumerate(examples) for text in misplaced(example)]
        if wrong:
            named = ", ".join(f"{text!r} of example {number}" for number, text in wrong[:3])
            raise UserError(
                f"{len(wrong)} answers are not where their context has them ({named}{', ...' * (len(wrong) > 3)}): "
                "correct answer_start, which counts characters; inspect --audit lists all"
            )
        empty = next((number for number, each in enumerate(examples) if not each["answers"]["text"]), None)
        if empty is not None and not self.no_answer:
            raise UserError(f"example {empty} has no answer: set task.no_answer to True, or leave it out")

    def logits(self, apply: Apply, batch: Mapping[str, jax.Array]) -> tuple[tuple[Logits, ...], Mapping[str, Any]]:
        """Of both ends over all tokens that are not padding, [batch, 2, length]; each is half of a row's loss."""
        logits, updates = apply(*self.model_inputs(batch))
        ends = jnp.stack(self._ends(logits, batch), axis=1)
        return (Logits(ends, jnp.broadcast_to(batch["weight"][:, None] / 2, ends.shape[:2])),), updates

    def metrics(self, logits: Sequence[Logits], batch: Mapping[str, jax.Array]) -> Metrics:
        """The mean of the cross-entropies of both ends over all tokens that are not padding; [CLS] is the answer of a
        row that does not hold it. `accuracy` is of rows whose two ends are right."""
        ((ends, *_),) = logits
        start, end = ends[:, 0], ends[:, 1]
        losses = (cross_entropy(start, batch["start"])[0] + cross_entropy(end, batch["end"])[0]) / 2
        right = (start.argmax(axis=-1) == batch["start"]) & (end.argmax(axis=-1) == batch["end"])
        weight = batch["weight"]
        return {"loss": weighted(losses, weight), "accuracy": weighted(right.astype(jnp.float32), weight)}

    def _ends(self, logits: jax.Array, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        logits = jnp.where(self.model_inputs(batch)[1][:, :, None], logits, MASKED)
        return logits[:, :, 0], logits[:, :, 1]

    def predict(self, model: nn.Module, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> Any:
        """Logits of the start and of the end at each token, float32 [batch, length] each."""
        return self._ends(model.apply(variables, *self.model_inputs(batch)), batch)  # pyrefly: ignore[bad-argument-type]

    def answer(self, example: Example, rows: Sequence[Any]) -> dict[str, Any]:
        """The best answer over all rows, `candidates` of them with their probabilities among each other, and with
        `no_answer` how much higher the score of no answer is than that of the best one. `answer_start` is the place of
        an answer's first character in the context, None for no answer."""
        spans: list[Span] = []
        null = np.inf
        for window, (start, end) in zip(self._windows([example]), rows, strict=True):
            null = min(null, float(start[0] + end[0]))
            spans += self._spans(window, start, end)
        best = {(span.start, span.end): span for span in sorted(spans, key=lambda span: span.score)}
        ranked = sorted(best.values(), key=lambda span: -span.score)[: self.candidates]
        found: list[tuple[str, int | None, float]] = [(*_said(example["context"], span), span.score) for span in ranked]
        if self.no_answer or not found:
            found.append(("", None, null))
        scores = np.array([score for *_, score in found])
        chances = np.exp(scores - scores.max())
        chances /= chances.sum()
        listed = [
            {"text": text, "answer_start": start, "probability": float(chance)}
            for (text, start, _), chance in zip(found, chances, strict=True)
        ]
        listed.sort(key=lambda each: -each["probability"])
        if not self.no_answer or not ranked:
            return {**listed[0], "candidates": listed}
        difference = null - ranked[0].score
        text = "" if difference > self.null_threshold else found[0][0]
        given = next(each for each in listed if each["text"] == text)
        return {**given, "candidates": listed, "null_score": difference}

    def row_of(self, example: Example, answer: Mapping[str, Any]) -> int:
        start = answer["answer_start"]
        if start is None:
            return 0
        end = start + len(answer["text"])
        parts = (window.places for window in self._windows([example]))
        holds = [len(places) > 0 and places[0, 0] <= start and end <= places[-1, 1] for places in parts]
        return holds.index(True) if True in holds else 0

    def _spans(self, window: Window, start: np.ndarray, end: np.ndarray) -> Iterator[Span]:
        """The spans of one row among its best starts and ends."""
        inside = slice(window.first, window.first + len(window.places))
        starts, ends = start[inside], end[inside]
        for first in np.argsort(-starts, kind="stable")[: self.candidates]:
            for last in np.argsort(-ends, kind="stable")[: self.candidates]:
                if 0 <= last - first < self.longest_answer:
                    score = float(starts[first] + ends[last])
                    yield Span(score, int(window.places[first, 0]), int(window.places[last, 1]))

    def scorer(self) -> Scorer:
        return SquadScorer(self.no_answer)

    def sample(self, example: Example, answer: Mapping[str, Any]) -> dict[str, Any]:
        sample = {"prompt": f"{example['context']}\n{example['question']} ", "answer": answer["text"] or "(no answer)"}
        if "answers" in example:
            sample["reference"] = next(iter(example["answers"]["text"]), "(no answer)")
        return sample

    def show(self, batch: Mapping[str, np.ndarray], row: int) -> str:
        start, end = int(batch["start"][row]), int(batch["end"][row])
        tokens = batch["tokens"][row, start : end + 1]
        words = " ".join(self.vocabulary.id_to_token(int(token)) for token in tokens)
        return f"{super().show(batch, row)}\nanswer: tokens {start} to {end}: {words}"


def _said(context: str, span: Span) -> tuple[str, int]:
    """The text of a span without blanks at its ends, and the place of its first character."""
    text = context[span.start : span.end]
    return text.strip(), span.start + len(text) - len(text.lstrip())


def misplaced(example: Example) -> list[str]:
    """The answers that do not stand in the context at their place."""
    answers = example.get("answers", {"text": (), "answer_start": ()})
    pairs = zip(answers["text"], answers["answer_start"], strict=True)
    return [text for text, start in pairs if start < 0 or example["context"][start : start + len(text)] != text]


def target(window: Window, example: Example) -> tuple[int, int]:
    """The first and last token of the example's first answer in a row, (0, 0) where the row does not hold all of it."""
    for text, start in zip(example["answers"]["text"], example["answers"]["answer_start"], strict=True):
        end = start + len(text)
        inside = np.flatnonzero((window.places[:, 1] > start) & (window.places[:, 0] < end))
        whole = len(inside) and window.places[inside[0], 0] <= start and window.places[inside[-1], 1] >= end
        return (window.first + int(inside[0]), window.first + int(inside[-1])) if whole else (0, 0)
    return 0, 0
