"""OpenAI's completions and embeddings, in the form that its clients read."""

import asyncio
import base64
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from research.errors import UserError, one_line
from research.serving.requests import MOST_INPUTS, Refused, example_of, json_of, only, worker_of
from research.serving.worker import Job, Worker
from research.tasks.task import Example

OPTIONS = {"temperature": "temperature", "top_p": "top_p", "seed": "sample_seed", "stop": "stop"}
OPTIONS |= {"max_tokens": "new_tokens"}
"""Their names of what a continuation's options are here."""
DEFAULT = {"n": 1, "best_of": 1, "echo": False, "logprobs": None, "suffix": None, "presence_penalty": 0, "user": None}
DEFAULT |= {"frequency_penalty": 0, "logit_bias": None, "stream_options": None}
"""What else may be said, with the only value that is done."""
MAX_TOKENS = 16
"""Of a continuation where the request says nothing, as theirs."""


async def models(workers: Mapping[str, Worker], request: Request) -> Response:
    """The runs."""
    listed = [{"id": name, "object": "model", "created": 0, "owned_by": "heed"} for name in workers]
    return JSONResponse({"object": "list", "data": listed})


async def complete(workers: Mapping[str, Worker], request: Request) -> Response:
    """A continuation of a prompt, whole or as it grows (`stream`)."""
    values = await json_of(request)
    only(values, "model", "prompt", "stream", *OPTIONS, *DEFAULT)
    for name, value in DEFAULT.items():
        if values.get(name, value) not in (value, None):
            raise Refused(
                400, f"{name} is {one_line(json.dumps(values[name]), 80)}, which is not done here: leave it out"
            )
    name, worker = worker_of(workers, values.get("model"))
    prompt = values.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        (prompt,) = prompt
    if not isinstance(prompt, str):
        raise Refused(400, "prompt is to be one text: ask for several one after another")
    options = _options(worker, values)
    example = await asyncio.to_thread(example_of, worker, prompt, options)
    start = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time()), "model": name}
    if values.get("stream"):
        stream = _Stream(worker, example, options)  # which is refused here where the run is busy
        return StreamingResponse(stream.events(prompt, start), media_type="text/event-stream")
    (asked,) = worker.submit(Job(example, options))
    answer = await asyncio.wrap_future(asked)
    text = _text(answer, prompt)
    usage = _usage(worker, prompt, text)
    return JSONResponse(start | {"choices": [_choice(text, _reason(options, usage))], "usage": usage})


async def embed(workers: Mapping[str, Worker], request: Request) -> Response:
    """The vectors of texts."""
    values = await json_of(request)
    only(values, "model", "input", "encoding_format", "user")
    name, worker = worker_of(workers, values.get("model"))
    texts = values.get("input")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not 0 < len(texts) <= MOST_INPUTS:
        raise Refused(400, f"input is to be a text or a list of 1 to {MOST_INPUTS} texts")
    form = values.get("encoding_format", "float")
    if form not in ("float", "base64"):
        raise Refused(400, "encoding_format is to be float or base64")
    examples = [await asyncio.to_thread(example_of, worker, text, {}) for text in texts]
    asked = worker.submit(*(Job(one, {}) for one in examples))
    answers = await asyncio.gather(*map(asyncio.wrap_future, asked))
    if not all("vector" in answer for answer in answers):
        raise Refused(400, f"the run {name} answers with no vectors: name one of sentences")
    vectors = [np.asarray(answer["vector"], "<f4") for answer in answers]
    coded = [base64.b64encode(one.tobytes()).decode() if form == "base64" else one.tolist() for one in vectors]
    data = [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(coded)]
    tokens = sum(_tokens(worker, text) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "data": data, "model": name, "usage": usage})


def _options(worker: Worker, values: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the run's answers that a request asks for; refused are those that it does not have."""
    given = {ours: values[theirs] for theirs, ours in OPTIONS.items() if values.get(theirs) is not None}
    known = worker.predictor.task.options()
    for theirs, ours in OPTIONS.items():
        if ours in given and ours not in known:
            raise Refused(400, f"{theirs} has no meaning for this run: leave it out")
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]
    if given.get("temperature") == 0:  # the most probable token each time
        del given["temperature"]
        given["top_k"] = 1
    if "new_tokens" in known:
        given.setdefault("new_tokens", MAX_TOKENS)
    try:
        worker.predictor.task.answering(**given)
    except UserError as error:
        raise Refused(400, one_line(str(error), 300)) from error
    return given


class _Stream:
    """An answer as it grows, from the thread of its run to this one. Raises Busy where the run takes no question."""

    def __init__(self, worker: Worker, example: Example, options: Mapping[str, Any]):
        self._worker, self._options, self._listening = worker, options, True
        self._loop, self._news = asyncio.get_running_loop(), asyncio.Queue()
        (self._asked,) = worker.submit(Job(example, options, show=self._show))
        self._asked.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._news.put_nowait, None))

    def _show(self, answer: dict[str, Any]) -> bool:
        self._loop.call_soon_threadsafe(self._news.put_nowait, answer)
        return self._listening

    async def events(self, prompt: str, start: dict[str, Any]) -> AsyncIterator[str]:
        """Server-sent events, each with what the text has more than before."""
        said = ""
        try:
            while (answer := await self._news.get()) is not None:
                text = _text(answer, prompt)
                if text.startswith(said) and text != said:
                    yield _event(start | {"choices": [_choice(text[len(said) :], None)]})
                    said = text
            if error := self._asked.exception():
                yield _event({"error": {"message": f"the run failed: {type(error).__name__}", "type": "server_error"}})
            reason = _reason(self._options, _usage(self._worker, prompt, said))
            yield _event(start | {"choices": [_choice("", reason)]})
            yield "data: [DONE]\n\n"
        finally:
            self._listening = False


def _reason(options: Mapping[str, Any], usage: Mapping[str, int]) -> str:
    return "length" if usage["completion_tokens"] >= options.get("new_tokens", float("inf")) else "stop"


def _event(content: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


def _choice(text: str, reason: str | None) -> dict[str, Any]:
    return {"text": text, "index": 0, "logprobs": None, "finish_reason": reason}


def _text(answer: Mapping[str, Any], prompt: str) -> str:
    return str(answer.get("text", answer.get("label", ""))).removeprefix(prompt)


def _usage(worker: Worker, prompt: str, text: str) -> dict[str, int]:
    asked, said = _tokens(worker, prompt), _tokens(worker, text)
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


def _tokens(worker: Worker, text: str) -> int:
    """Tokens of a text; 0 for a run that has no vocabulary."""
    vocabulary = getattr(worker.predictor.task, "vocabulary", None)
    return 0 if vocabulary is None else len(vocabulary.encode(text))
