"""Fewer points of a curve: what a reader sees of it stays."""

import itertools

import numpy as np
import pytest

from research.analysis.downsample import kept_points


@pytest.mark.parametrize("points", [2001, 5000, 99_999])
def test_extremes_of_every_stretch_stay(points):
    values = np.random.default_rng(points).normal(size=points).cumsum()
    kept = kept_points(values, 2000)
    assert len(kept) <= 2000 and kept[0] == 0 and kept[-1] == points - 1 and (np.diff(kept) > 0).all()
    borders = [points * stretch // 666 for stretch in range(667)]
    for start, stop in itertools.pairwise(borders):
        inside = values[kept[(kept >= start) & (kept < stop)]]
        assert inside.min() == values[start:stop].min() and inside.max() == values[start:stop].max()


def test_a_single_spike_and_a_single_gap_stay():
    values = np.zeros(100_000)
    values[[12_345, 54_321, 77_777, 88_888]] = [np.nan, 9.0, -9.0, np.inf]
    assert {12_345, 54_321, 77_777, 88_888} <= set(kept_points(values).tolist())


def test_short_curves_stay_whole_and_all_gaps_are_no_trouble():
    assert kept_points(np.arange(2000.0)).tolist() == list(range(2000))
    assert kept_points(np.array([])).tolist() == []
    assert len(kept_points(np.full(5000, np.nan), 100)) <= 100
    with pytest.raises(ValueError, match="limit is 4"):
        kept_points(np.zeros(9), 4)
