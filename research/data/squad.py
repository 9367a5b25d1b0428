"""Questions about paragraphs, with answers that stand in them: the JSON of SQuAD 1.1 and 2.0 (Rajpurkar et al.)."""

import json
from dataclasses import dataclass
from typing import Any

from research.data.plain_text import check_text, read_text
from research.data.source import Example
from research.data.split_files import SplitFiles
from research.errors import UserError


@dataclass(frozen=True)
class Squad(SplitFiles):
    """{"id", "question", "context", "answers": {"text": [...], "answer_start": [...]}}; no answers in 2.0's impossible
    questions. Files that others wrote in the same form serve as well."""

    def read(self, path: str) -> list[Example]:
        text = read_text(path)
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not JSON ({str(error)[:100]}): give a file as SQuAD publishes it") from error
        try:
            return [
                _example(question, paragraph["context"], path)
                for article in content["data"]
                for paragraph in article["paragraphs"]
                for question in paragraph["qas"]
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} is not SQuAD's JSON ({type(error).__name__}: {error}): give data, with paragraphs, each "
                "with a context and qas"
            ) from error


def _example(question: dict[str, Any], context: str, path: str) -> Example:
    answers = question.get("answers", [])
    for text in (question["question"], context, *(answer["text"] for answer in answers)):
        check_text(text + "", f"the question {question['id']!r} of {path}")  # a text, or a TypeError
    return {
        "id": str(question["id"]),
        "question": question["question"].strip(),
        "context": context,
        "answers": {
            "text": [answer["text"] for answer in answers],
            "answer_start": [answer["answer_start"] + 0 for answer in answers],
        },
    }
