"""The vocabulary of a run: trained once on the training text, or read from a file, then kept in the run's folder."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from research.data.lines import BLOCK
from research.data.plain_text import cut
from research.data.source import Mixed
from research.data.texts import stream_of
from research.data.tokenizer import Tokenizer, TrainedTokenizer
from research.errors import UserError
from research.tasks.task import Example, View


def vocabulary_of_run(
    tokenizer: Tokenizer,
    source: Any,
    fields: Sequence[str],
    folder: Path,
    name: str = "tokenizer",
    *,
    pads_with_end: bool = False,
) -> TrainedTokenizer:
    """Loads `{name}.json` from the run's folder, or makes it: from the tokenizer's file, or of the training examples.

    fields: of the examples, whose texts it is trained on. name: of the task's field that the tokenizer is.
    pads_with_end: whether the task can tell the mark that ends a text from padding that is the same.

    Every process makes the same one; process 0 saves it, so that the tokenizer's file is read only once. Raises a
    UserError where special tokens are missing: only running text, the field "text", can do without.
    """
    if not tokenizer.specials and "text" not in fields:
        raise UserError(f"task.{name}.specials is False, which suits a language model alone: set it to True")
    path = folder / f"{name}.json"
    if path.exists():
        return _fitting(TrainedTokenizer.load(path), fields, name, pads_with_end)
    examples = source.examples  # nobody has them for a stored run: its config may name any file, this one included
    if tokenizer.path is not None:
        vocabulary = tokenizer.read(folder)
    else:
        vocabulary = tokenizer.train(_sample(examples("train"), fields, tokenizer.sample_megabytes * 10**6))
    vocabulary = _fitting(vocabulary, fields, name, pads_with_end)
    if jax.process_index() == 0:
        vocabulary.save(path)
    return vocabulary


def _sample(examples: Sequence[Example], fields: Sequence[str], size: int) -> Iterator[str]:
    """All texts of the examples or, of more than `size` bytes of them, evenly spaced parts."""
    if isinstance(examples, Mixed):
        parts = [_sample(part, fields, size // len(examples.parts)) for part in examples.parts]
        return itertools.chain.from_iterable(parts)
    origin = getattr(examples, "origin", None)
    every = max(1, -(-origin.bytes // size)) if origin else 1
    if tuple(fields) == ("text",):
        parts = ((text,) for text, _ in stream_of(examples))
    else:
        blocks = itertools.batched(examples, BLOCK)
        parts = ([example[field] for example in block for field in fields] for block in blocks)
    return itertools.chain.from_iterable(itertools.islice(parts, 0, None, every))


def given_text(item: Any) -> str:
    """A person's input that has to be a text. Raises UserError for anything else."""
    if not isinstance(item, str):
        raise UserError(f"an input is {type(item).__name__} and this run answers texts: give str")
    try:
        item.encode()
    except UnicodeEncodeError as error:  # bytes of a command line that are not UTF-8 arrive as half characters
        raise UserError(f"the input {item!r} is not UTF-8 text: convert it to UTF-8") from error
    return item


def read_and_written(title: str, read: Sequence[int], written: Sequence[int], vocabulary: TrainedTokenizer) -> View:
    """What there is to see of a decoder: its queries are named by the tokens that it writes, its keys by those read."""
    names = {"read": read, "written": written}
    tokens = {name: [vocabulary.id_to_token(int(token)) for token in ids] for name, ids in names.items()}
    return View(title, (np.array([read], np.int32),), tokens, lambda path: ("written", "read"))


def remarks_on(text: str, name: str, vocabulary: TrainedTokenizer, longest: int | None) -> list[str]:
    """What is odd about a text for a vocabulary and for a model that takes at most `longest` tokens."""
    if not text.strip():
        return [f"{name} is empty"]
    remarks, length = [], 0
    for lines in itertools.batched(cut(text), BLOCK):
        for ids in vocabulary.encode_batch(lines):
            length += len(ids)
            if not remarks and vocabulary.unk is not None and vocabulary.unk in ids:
                remarks.append(f"{name} has unknown tokens")
    return [*remarks, *[f"{name} is longer than {longest} tokens"] * (longest is not None and length > longest)]


def _fitting(vocabulary: TrainedTokenizer, fields: Sequence[str], name: str, pads_with_end: bool) -> TrainedTokenizer:
    """The vocabulary, or a UserError where rows of sentences could not be padded with it."""
    if vocabulary.pads_with_end and not pads_with_end:
        raise UserError(
            f"task.{name} pads texts with the mark that ends them, as CLIP's and SigLIP's do, which suits the task "
            "image_text alone: use another"
        )
    if "text" not in fields and vocabulary.pad is None:
        raise UserError(f"task.{name} has no token for padding, which suits a language model alone: use another")
    return vocabulary


def padding_of(vocabulary: TrainedTokenizer) -> int:
    """The id of its padding, which every vocabulary for rows of sentences has."""
    assert vocabulary.pad is not None
    return vocabulary.pad


def rules_of(vocabulary: TrainedTokenizer) -> dict[str, Any]:
    """What a vocabulary does beside its file, as plain values: the ids of marks, and what becomes of special tokens."""
    return {
        "start": vocabulary.start_token,
        "end": vocabulary.end_token,
        "unknown": vocabulary.unk,
        "special": sorted(vocabulary.special),
        "hides_special": vocabulary.hides_special,
        "parts_words": vocabulary.parts_words,
        "marks_between": vocabulary.marks_between,
    }


def vocabularies_of_pairs(
    tokenizer: Tokenizer, target_tokenizer: Tokenizer | None, source: Any, folder: Path
) -> tuple[TrainedTokenizer, TrainedTokenizer]:
    """The vocabularies of the source and of the target: one joint one, twice, where there is no `target_tokenizer`.

    The run's folder keeps them as `tokenizer.json` and `target_tokenizer.json`. Raises as `vocabulary_of_run`.
    """
    if target_tokenizer is None:
        joint = vocabulary_of_run(tokenizer, source, ("source", "target"), folder)
        return joint, joint
    target = vocabulary_of_run(target_tokenizer, source, ("target",), folder, "target_tokenizer")
    own = vocabulary_of_run(tokenizer, source, ("source",), folder)
    if own.pad != target.pad:
        raise UserError(
            f"task.tokenizer pads with id {own.pad} and task.target_tokenizer with {target.pad}: use vocabularies with "
            "the same padding"
        )
    return own, target


def fields_of_pairs(source: TrainedTokenizer, target: TrainedTokenizer) -> dict[str, Any]:
    """The model's fields that the vocabularies of `vocabularies_of_pairs` decide.

    Two of them need separate tables, each with as many rows as the larger has tokens.
    """
    if source is target:
        return {"vocab_size": source.vocab_size}
    return {"vocab_size": max(source.vocab_size, target.vocab_size), "share_embeddings": False}


def token_ids(task: Any) -> dict[str, dict[str, int]]:
    """The id of each token in the vocabularies of a task's "source" and "target", {} for a task without any."""
    source = getattr(task, "vocabulary", None)
    found = {"source": source, "target": getattr(task, "target_vocabulary", None) or source}
    return {side: vocabulary.ids for side, vocabulary in found.items() if vocabulary is not None}


def show_tokens(vocabulary: TrainedTokenizer, tokens: np.ndarray, pad: int) -> str:
    """Tokens with their ids, the padding at the end counted instead of listed."""
    kept = tokens[: len(tokens) - int(np.argmax(tokens[::-1] != pad))] if (tokens != pad).any() else tokens[:0]
    pieces = " ".join(f"{vocabulary.id_to_token(int(token))!r}={token}" for token in kept)
    padding = len(tokens) - len(kept)
    return f"{pieces} + {padding} padding" if padding else pieces
