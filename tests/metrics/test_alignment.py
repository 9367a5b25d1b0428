"""The alignment error rate by hand, on links as people write them."""

import pytest

from research.errors import UserError
from research.metrics.alignment import Links, alignment_scores, read_links


def test_links_of_a_line():
    links = read_links("0-0 1-2  2?3 10-11", "line 1")
    assert links == Links(frozenset({(0, 0), (1, 2), (10, 11)}), frozenset({(0, 0), (1, 2), (2, 3), (10, 11)}))
    assert read_links("", "line 2") == Links(frozenset(), frozenset())


@pytest.mark.parametrize("text", ["0", "0-", "-1-2", "a-b", "1:2", "1-2-3", "1234567-0", "\u0661-1"])
def test_what_is_not_a_link(text):
    with pytest.raises(UserError, match=r"line 3 of x has .* in place of a link: write them as 0-0 1-2"):
        read_links(f"0-0 {text}", "line 3 of x")


def test_the_error_rate_by_hand():
    """Two sentences: 5 answered links, 3 sure ones; 2 answers are sure, 4 possible."""
    right = [read_links("0-0 1-1 2?2", ""), read_links("0-1 1?0", "")]
    answers = [{(0, 0), (2, 2), (1, 0)}, {(0, 1), (1, 0)}]
    scores = alignment_scores(answers, right)
    assert scores["alignment_error_rate"] == pytest.approx(1 - (2 + 4) / (5 + 3))
    assert scores["precision"] == pytest.approx(4 / 5) and scores["recall"] == pytest.approx(2 / 3)
    perfect = alignment_scores([set(links.sure) for links in right], right)
    assert perfect == {"alignment_error_rate": 0.0, "precision": 1.0, "recall": 1.0}


def test_nothing_to_compare():
    with pytest.raises(UserError, match="0 links of the model and 1 sure ones"):
        alignment_scores([set()], [read_links("0-0", "")])
    with pytest.raises(UserError, match="1 links of the model and 0 sure ones"):
        alignment_scores([{(0, 0)}], [read_links("0?0", "")])
