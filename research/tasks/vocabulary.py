"""The vocabulary of a run: trained once on the training text, then kept in the run's folder."""

from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import numpy as np

from research.data.tokenizer import Tokenizer, TrainedTokenizer


def vocabulary_of_run(tokenizer: Tokenizer, texts: Callable[[], Iterable[str]], folder: Path) -> TrainedTokenizer:
    """Loads `tokenizer.json` from the run's folder, or trains it on `texts()` and saves it there.

    Every process trains the same one; process 0 writes it.
    """
    path = folder / "tokenizer.json"
    if path.exists():
        return TrainedTokenizer.load(path)
    vocabulary = tokenizer.train(texts())
    if jax.process_index() == 0:
        vocabulary.save(path)
    return vocabulary


def show_tokens(vocabulary: TrainedTokenizer, tokens: np.ndarray, pad: int) -> str:
    """Tokens with their ids, the padding at the end counted instead of listed."""
    kept = tokens[: len(tokens) - int(np.argmax(tokens[::-1] != pad))] if (tokens != pad).any() else tokens[:0]
    pieces = " ".join(f"{vocabulary.id_to_token(int(token))!r}={token}" for token in kept)
    padding = len(tokens) - len(kept)
    return f"{pieces} + {padding} padding" if padding else pieces
