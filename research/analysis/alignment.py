"""Which words of the source a translation model looks at when it writes a word: links of words from cross-attention."""

import re

import numpy as np


def words_of(text: str, places: np.ndarray) -> np.ndarray:
    """The word of a text, parted by blanks and counted from 0, that each token ends in, -1 for none, int64 [tokens].

    places: the characters that each token stands for, int64 [tokens, 2].
    """
    spans = np.array([found.span() for found in re.finditer(r"\S+", text)], np.int64).reshape(-1, 2)
    if not len(spans):
        return np.full(len(places), -1)
    last = places[:, 1] - 1
    words = np.minimum(np.searchsorted(spans[:, 1], last, side="right"), len(spans) - 1)
    inside = (spans[words, 0] <= last) & (last < spans[words, 1]) & (places[:, 1] > places[:, 0])
    return np.where(inside, words, -1)


def links(weights: np.ndarray, source: np.ndarray, target: np.ndarray) -> set[tuple[int, int]]:
    """For each word of the target the word of the source with the most attention, as pairs (source, target).

    weights: [target tokens, source tokens], of the steps that write each target token. source, target: the word of each
    token, -1 for none. A word's attention is the mean over its tokens as queries, and the sum over its tokens as keys.
    """
    if not (source >= 0).any():
        return set()
    of_words = np.stack([weights[:, source == word].sum(axis=1) for word in range(source.max() + 1)], axis=1)
    return {(int(of_words[target == word].mean(axis=0).argmax()), int(word)) for word in np.unique(target[target >= 0])}
