"""Goals, and the frontier of what is measured."""

import dataclasses

import pytest

from research.compression.frontier import (
    Goals,
    Measured,
    chosen,
    fraction,
    on_frontier,
    picture,
    points_lost,
    report,
    table,
)
from research.errors import UserError


def row(name, quality, seconds, size):
    points = points_lost(quality, 0.9, lower=False)
    return Measured(name, quality, points, 1000, size, 2 * size, {1: seconds, 8: 4 * seconds})


ROWS = [
    row("original", 0.9, 0.010, 400),
    row("bf16", 0.9, 0.012, 200),
    row("int8", 0.899, 0.015, 100),
    row("layers0.5", 0.895, 0.006, 300),
    row("layers0.33", 0.86, 0.004, 250),
    row("worse", 0.85, 0.007, 350),
]


@pytest.mark.parametrize(
    ("goals", "name"),
    [
        (Goals(), "int8"),
        (Goals(latency=1.0), "layers0.5"),
        (Goals(latency=0.5, loss=5), "layers0.33"),
        (Goals(size=0.5, loss=0.05), "bf16"),
        (Goals(latency=1.2, size=0.5), "bf16"),
        (Goals(latency=0.5), None),
        (Goals(size=0.2), None),
        (Goals(loss=0, latency=1.0), None),
    ],
)
def test_goals(goals, name):
    best, sentence = chosen(ROWS, goals)
    assert (best and best.name) == name
    assert sentence.startswith("no candidate has" if name is None else "the ")


def test_what_comes_nearest_is_named():
    assert chosen(ROWS, Goals(latency=0.5))[1] == (
        "no candidate has latency 0.5x and at most 1 points lost; the best found is layers0.5, latency 0.60x, "
        "size 0.75x, 0.50 points lost (0.8950)"
    )
    assert "the best found is layers0.5" in chosen([ROWS[0], *ROWS[3:]], Goals(loss=0.1))[1]


def test_points_are_per_cent_of_fractions_units_of_scores_and_per_cent_of_losses():
    assert points_lost(0.895, 0.9, lower=False) == pytest.approx(0.5)
    assert points_lost(27.0, 28.5, lower=False) == pytest.approx(1.5)
    assert points_lost(2.2, 2.0, lower=True) == pytest.approx(10)
    assert points_lost(0.91, 0.9, lower=False) == pytest.approx(-1)


def test_the_frontier_is_what_nothing_else_surpasses(tmp_path):
    best = [each.name for each in ROWS if on_frontier(each, ROWS)]
    assert best == ["original", "bf16", "int8", "layers0.5", "layers0.33"]
    twin = dataclasses.replace(ROWS[1], name="twin")
    assert on_frontier(twin, [*ROWS, twin])
    lines = table(ROWS, "test/accuracy").splitlines()
    assert len(lines) == 8 and "| bf16 | 0.9000 | +0.00 | 0.001 | 12.00 | 48.00 | 1.20x |" in lines[3]
    found = report(ROWS, "test/accuracy")
    assert found["models"][3]["relative"] == {"latency": pytest.approx(0.6), "size": 0.75}
    picture(ROWS, "test/accuracy", tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").stat().st_size > 10_000


@pytest.mark.parametrize("text", ["0.5", "x", "-1x", "0x", "50%", "1e3x"])
def test_fractions_are_written_with_an_x(text):
    assert fraction("0.5x", "--size") == 0.5
    with pytest.raises(UserError, match=r"^--size=.* is not a fraction of the original's: write it as 0\.5x$"):
        fraction(text, "--size")
