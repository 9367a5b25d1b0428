"""The vocabulary of a run: trained once on the training text, then kept in the run's folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from research.data.tokenizer import Tokenizer, TrainedTokenizer
from research.errors import UserError


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


def show_tokens(vocabulary: TrainedTokenizer, tokens: np.ndarray, pad: int) -> str:
    """Tokens with their ids, the padding at the end counted instead of listed."""
    kept = tokens[: len(tokens) - int(np.argmax(tokens[::-1] != pad))] if (tokens != pad).any() else tokens[:0]
    pieces = " ".join(f"{vocabulary.id_to_token(int(token))!r}={token}" for token in kept)
    padding = len(tokens) - len(kept)
    return f"{pieces} + {padding} padding" if padding else pieces
