"""Pictures of texts and numbers that nobody has chosen."""

import numpy as np
import pytest

from research.analysis.pictures import attention_heat_maps, learning_curves

SIGNS = ["", " ", "\n", "$\\frac$", "$", "\\q", "a\0", "\ud800"]


def test_any_token_and_title_can_be_drawn(tmp_path):
    weights = np.full((2, len(SIGNS), len(SIGNS)), 1 / len(SIGNS))
    attention_heat_maps(weights, SIGNS, SIGNS, "it costs $\\frac$ or $5", tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("values", [[1e308, -1e308], ["nan", "inf"], [2**900, 1], [1.0], []])
def test_any_logged_number_can_be_drawn(tmp_path, values):
    rows = [{"step": step, "train/$\\frac$": value} for step, value in enumerate(values, 2**52)]
    learning_curves(rows, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists() == bool(values)
