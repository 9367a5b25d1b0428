import json
from pathlib import Path

import pytest

from research.errors import UserError
from research.metrics.squad import SquadScorer, normalised

GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures" / "golden_scores.json").read_text())["squad"]


def scores(cases, no_answer):
    scorer = SquadScorer(no_answer)
    for case in cases:
        scorer.add({"answers": {"text": case["references"]}}, {"text": case["answer"]})
    return scorer.result()


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_scores_are_the_official_ones_on_a_thousand_answers(version):
    cases = [case for case in GOLDEN if version in case]
    for case in cases:
        found = scores([case], version == "2.0")
        assert [found["exact_match"], found["f1"]] == pytest.approx([100 * value for value in case[version]]), case
    exact = sum(case[version][0] for case in cases) / len(cases)
    assert scores(cases, version == "2.0")["exact_match"] == pytest.approx(100 * exact)


def test_questions_with_and_without_an_answer_apart():
    cases = [{"answer": "the Broncos", "references": ["Broncos"]}, {"answer": "x", "references": []}]
    found = scores([*cases, {"answer": "", "references": []}], True)
    assert found["has_answer_exact_match"] == 100 and found["no_answer_f1"] == 50
    assert found["exact_match"] == pytest.approx(200 / 3)


def test_text_is_normalised_as_published():
    assert normalised("  The U.S. and An  apple, a day!") == "us and apple day"
    assert "2.0" in SquadScorer(True).signatures()["f1"] and "1.1" in SquadScorer().signatures()["f1"]
    with pytest.raises(UserError, match="no answers to score"):
        SquadScorer().result()
