import numpy as np
import pytest

from research.analysis.latency import growth, measure


def test_functions_take_turns():
    calls = []
    seconds = measure({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3)
    assert "".join(calls) == "ab" * 4  # once before the clock starts
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}
    assert all((values >= 0).all() for values in seconds.values())


def test_growth_finds_the_exponent():
    sizes = np.array([10, 20, 40, 80])
    assert growth(sizes, 3.0 * sizes**2) == pytest.approx(2)
    assert growth(sizes, 0.5 * sizes**0.5) == pytest.approx(0.5)
