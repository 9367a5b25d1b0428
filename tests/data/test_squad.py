import json

import pytest

from research.data.squad import Squad
from research.errors import UserError

CONTEXT = "Super Bowl 50 was won by the Denver Broncos."
CONTENT = {
    "version": "v2.0",
    "data": [
        {
            "title": "x",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {
                            "id": "1",
                            "question": " Who won? ",
                            "answers": [{"text": "Denver Broncos", "answer_start": 29}],
                            "is_impossible": False,
                        },
                        {
                            "id": "2",
                            "question": "Who lost?",
                            "answers": [],
                            "plausible_answers": [{"text": "Denver", "answer_start": 29}],
                            "is_impossible": True,
                        },
                    ],
                }
            ],
        }
    ],
}


def test_questions_with_their_answers(tmp_path):
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(CONTENT))
    first, second = Squad(str(path)).examples("train")
    assert first == {
        "id": "1",
        "question": "Who won?",
        "context": CONTEXT,
        "answers": {"text": ["Denver Broncos"], "answer_start": [29]},
    }
    assert second["answers"] == {"text": [], "answer_start": []}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is not SQuAD's JSON"),
        ('{"data": [{"paragraphs": [{"qas": [{"id": 1, "question": "x"}]}]}]}', "is not SQuAD's JSON .*'context'"),
        ('{"data": [{"paragraphs": [{"context": 3, "qas": [{"id": 1, "question": "x"}]}]}]}', "not SQuAD's JSON"),
        (
            '{"data": [{"paragraphs": [{"context": "\\ud800", "qas": [{"id": 1, "question": "x"}]}]}]}',
            "question 1 of .*half",
        ),
        ('{"data": []}', "holds no examples"),
    ],
)
def test_other_files(text, words, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=words):
        Squad(str(tmp_path / "a.json")).examples("train")
