"""The page to try the served runs with, and the answer to one input as a page."""

import contextlib
import string
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from research.errors import UserError
from research.reports.page import part
from research.reports.samples import ATTENTION_BYTES, look, png, within
from research.reports.sections import explored, table
from research.runs.predictor import Predictor
from research.serving.worker import Worker
from research.tasks.task import Example

SHOWN = 300
"""Characters of a value in the table of an answer."""


def form(workers: Mapping[str, Worker], asks_token: bool) -> str:
    """The page: a run is chosen, an input given, and the answer shown below."""
    kinds = {name: "image" if one.predictor.task.takes_images else "text" for name, one in workers.items()}
    runs = "".join(f'<option data-kind="{kind}">{escape(name)}</option>' for name, kind in kinds.items())
    text = string.Template((Path(__file__).parent / "trying.html").read_text(encoding="utf-8"))
    return text.substitute(style=part("report.css"), runs=runs, token="" if asks_token else "hidden")


def shown(predictor: Predictor, example: Example, answer: Mapping[str, Any]) -> dict[str, str]:
    """The sections of an answer's page."""
    task = predictor.task
    content = {"Answer": table([["", ""], *([name, _short(value)] for name, value in answer.items())])}
    if (drawn := task.picture(example, answer)) is not None:
        content["Picture"] = f'<img src="{png(drawn)}" alt="the answer, drawn over the image">'
    with contextlib.suppress(UserError):  # a model without attention
        if (view := task.view(example, answer)) is not None:
            seen = look(predictor.evaluator.inference.model, predictor.variables, view)
            content["Attention"] = explored(within([seen], ATTENTION_BYTES))
    return content


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
