"""Beam search as one would explain it: lists of hypotheses, no early stop, no cache."""

from collections.abc import Callable

import numpy as np

Hypothesis = tuple[float, list[int]]
NextLogProbabilities = Callable[[list[int]], np.ndarray]


def final_score(log_probability: float, length: int, length_penalty: float) -> float:
    return log_probability / ((5 + length) / 6) ** length_penalty


def reference_beam_search(
    next_log_probabilities: NextLogProbabilities,
    prompt: list[int],
    beam_size: int,
    limit: int,
    end_token: int,
    length_penalty: float,
) -> list[Hypothesis]:
    """All hypotheses that end while the beam is followed to the limit, best first."""
    live, ended = [(0.0, prompt)], []
    for length in range(1, limit - len(prompt) + 1):
        candidates = []
        for score, tokens in live:
            for token, log_probability in enumerate(next_log_probabilities(tokens)):
                hypothesis = (score + log_probability, [*tokens, token])
                (ended if token == end_token else candidates).append((*hypothesis, length))
        live = [(score, tokens) for score, tokens, _ in sorted(candidates, key=lambda each: -each[0])[:beam_size]]
    ended += [(score, tokens, length) for score, tokens in live]
    scored = [(final_score(score, length, length_penalty), tokens) for score, tokens, length in ended]
    return sorted((each for each in scored if each[0] > -np.inf), key=lambda each: -each[0])
