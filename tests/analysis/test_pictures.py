"""Pictures of texts and numbers that nobody has chosen."""

import string

import numpy as np
import pytest

from research.analysis import fonts
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


def drawn_with(letters, path, capsys):
    attention_heat_maps(np.full((1, len(letters), len(letters)), 0.5), letters, letters, "".join(letters), path)
    assert path.exists()
    return capsys.readouterr().err


def test_common_letters_are_drawn_without_a_word(tmp_path, capsys):
    assert drawn_with(["a", "é", "я", "م"], tmp_path / "known.png", capsys) == ""
    assert not any("\u0378" in fonts._letters_of(path) for _, path in fonts._installed())  # no letter is there


def test_another_font_draws_what_the_first_lacks(tmp_path, capsys, monkeypatch):
    """A machine with a Chinese font: it is asked for, and nothing is said."""
    monkeypatch.setattr(fonts, "_installed", lambda: (("DejaVu Sans", "plain"), ("Noto Sans CJK SC", "chinese")))
    monkeypatch.setattr(fonts, "_letters_of", lambda path: frozenset(string.printable + "你好" * (path == "chinese")))
    assert fonts._covering({"你", "好"}) == (["Noto Sans CJK SC"], set())
    assert fonts._covering({"你", "ษ"}) == (["Noto Sans CJK SC"], {"ษ"})
    assert "has 1 of the letters, such as 'ษ', which are drawn as boxes: install" in drawn_with(
        ["a", "ษ"], tmp_path / "thai.png", capsys
    )
