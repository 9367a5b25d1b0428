"""Words of tokens and links of words, by hand."""

import numpy as np

from research.analysis.alignment import links, words_of


def test_the_word_of_each_token():
    text = "  un do it"
    places = np.array([[0, 4], [4, 5], [5, 7], [7, 8], [8, 10], [2, 2]])  # "  un", " ", "do", " ", "it", nothing
    assert words_of(text, places).tolist() == [0, -1, 1, -1, 2, -1]
    assert words_of(" ", np.array([[0, 1]])).tolist() == [-1]
    assert words_of("a", np.zeros((0, 2), np.int64)).tolist() == []


def test_the_word_with_the_most_attention():
    """Source words: tokens 0+1, 3; target words: token 0, tokens 1+2. No token alone of word 0 has the most."""
    source, target = np.array([0, 0, -1, 1]), np.array([0, 1, 1, -1])
    weights = np.array([[0.3, 0.3, 0.0, 0.4], [0.1, 0.1, 0.0, 0.8], [0.3, 0.3, 0.1, 0.3], [0.9, 0.1, 0, 0]])
    assert links(weights, source, target) == {(0, 0), (1, 1)}
    assert links(weights, np.full(4, -1), target) == set()
    assert links(weights, source, np.full(4, -1)) == set()
