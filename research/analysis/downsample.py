"""Long curves, drawn with few points that look the same."""

import itertools

import numpy as np


def kept_points(values: np.ndarray, limit: int = 2000) -> np.ndarray:
    """The indices, int64 and ascending, of at most `limit` points that draw the curve `values` [points] as all would.

    The curve is cut into equal stretches; each keeps its smallest and its largest value, and the first that is not
    finite, so that no spike and no gap is lost. The first and last point always stay. A curve of no more than `limit`
    points is kept whole. Raises ValueError for a limit below 5.
    """
    if limit < 5:
        raise ValueError(f"limit is {limit}: use 5 or more")
    if len(values) <= limit:
        return np.arange(len(values))
    finite = np.isfinite(values)
    lows, highs = np.where(finite, values, np.inf), np.where(finite, values, -np.inf)
    borders = np.linspace(0, len(values), (limit - 2) // 3 + 1).astype(np.int64)
    kept = {0, len(values) - 1}
    for start, stop in itertools.pairwise(borders):
        kept |= {int(start + lows[start:stop].argmin()), int(start + highs[start:stop].argmax())}
        if not finite[start:stop].all():
            kept.add(int(start + finite[start:stop].argmin()))
    return np.array(sorted(kept))
