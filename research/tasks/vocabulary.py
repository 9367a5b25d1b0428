"""The vocabulary of a run: trained once on the training text, then kept in the run's folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from research.data.tokenizer import Tokenizer, TrainedTokenizer
from research.errors import UserError
from research.tasks.task import View


def vocabulary_of_run(tokenizer: Tokenizer, source: Any, fields: Sequence[str], folder: Path) -> TrainedTokenizer:
    """Loads `tokenizer.json` from the run's folder, or trains it on these fields of the training examples.

    Every process trains the same one; process 0 saves it. Raises a UserError where special tokens are missing: only
    running text, the field "text", can do without.
    """
    if not tokenizer.specials and "text" not in fields:
        raise UserError("task.tokenizer.specials is False, which suits a language model alone: set it to True")
    path = folder / "tokenizer.json"
    if path.exists():
        return TrainedTokenizer.load(path)
    vocabulary = tokenizer.train(example[field] for example in source.examples("train") for field in fields)
    if jax.process_index() == 0:
        vocabulary.save(path)
    return vocabulary


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


def show_tokens(vocabulary: TrainedTokenizer, tokens: np.ndarray, pad: int) -> str:
    """Tokens with their ids, the padding at the end counted instead of listed."""
    kept = tokens[: len(tokens) - int(np.argmax(tokens[::-1] != pad))] if (tokens != pad).any() else tokens[:0]
    pieces = " ".join(f"{vocabulary.id_to_token(int(token))!r}={token}" for token in kept)
    padding = len(tokens) - len(kept)
    return f"{pieces} + {padding} padding" if padding else pieces
