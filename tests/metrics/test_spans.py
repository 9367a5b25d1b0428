import json
from pathlib import Path

import pytest

from research.errors import UserError
from research.metrics.spans import SpanScorer, lenient_spans, strict_spans

GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures" / "golden_scores.json").read_text())


def test_spans_are_seqevals_on_a_thousand_sentences():
    for case in GOLDEN["spans"]:
        tags = case["tags"].split()
        assert [list(span) for span in lenient_spans(tags)] == case["lenient"], tags
        assert "strict" not in case or [list(span) for span in strict_spans(tags)] == case["strict"], tags


@pytest.mark.parametrize("corpus", GOLDEN["corpora"])
def test_scores_are_seqevals(corpus):
    scorer = SpanScorer()
    for right, given in zip(corpus["right"], corpus["given"], strict=True):
        scorer.add({"target": right}, {"text": given})
    assert scorer.result() == {name: pytest.approx(corpus[name]) for name in scorer.names}


def test_the_published_example_of_seqeval():
    """Of its README: the second of the two names is right, the first one word too long."""
    scorer = SpanScorer()
    scorer.add({"target": "O O O B-MISC I-MISC I-MISC O"}, {"text": "O O B-MISC I-MISC I-MISC I-MISC O"})
    scorer.add({"target": "B-PER I-PER O"}, {"text": "B-PER I-PER O"})
    assert scorer.result()["span_f1"] == scorer.result()["span_strict_f1"] == 0.5


def test_the_definitions_differ_where_a_span_begins_with_i():
    """The second example of the README's section on strict mode."""
    scorer = SpanScorer()
    scorer.add({"target": "B-NP I-NP O"}, {"text": "I-NP I-NP O"})
    assert scorer.result()["span_f1"] == 1 and scorer.result()["span_strict_f1"] == 0
    assert "IOB2" in scorer.signatures()["span_strict_f1"] and "default" in scorer.signatures()["span_f1"]


def test_nothing_to_score():
    with pytest.raises(UserError, match="no answers to score"):
        SpanScorer().result()
