"""What a client sends, read with limits: JSON or an image, refused with a sentence and a status of 4xx."""

import base64
import binascii
import contextlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from research.errors import UserError, one_line
from research.serving.worker import Worker
from research.values import literal

LARGEST_BODY = 16 * 2**20
"""Bytes of a request."""
MOST_INPUTS = 256
"""Inputs of one request."""


class Refused(Exception):
    """An answer of another status than 200."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


def refusal(error: Refused) -> Response:
    """In the form that OpenAI's clients read."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    content = {"error": {"message": str(error), "type": kind, "code": None, "param": None}}
    return JSONResponse(content, error.status)


async def body_of(request: Request) -> bytes:
    """The body, of which no more is read than is allowed."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > LARGEST_BODY:
            raise Refused(413, f"a request has at most {LARGEST_BODY // 2**20} MiB: send less at a time")
    return bytes(content)


async def json_of(request: Request) -> dict[str, Any]:
    """The body as a JSON object."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "send JSON with the Content-Type application/json, or an image with its own")
    content = await body_of(request)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {one_line(str(error), 100)}") from error
    if not isinstance(found, dict):
        raise Refused(400, "the body is JSON but not an object: send {...}")
    return found


def worker_of(workers: Mapping[str, Worker], name: Any) -> tuple[str, Worker]:
    """The run that is asked for, which has to be named where there are several."""
    if name is None and len(workers) == 1:
        (name,) = workers
    if not isinstance(name, str) or name not in workers:
        asked = "no run is named" if name is None else f"{one_line(str(name), 80)!r} is not served"
        raise Refused(404, f"{asked}: use one of {', '.join(workers)}")
    return name, workers[name]


def only(values: Mapping[str, Any], *names: str) -> None:
    """Refuses fields that would be ignored."""
    for name in values:
        if name not in names:
            raise Refused(400, f"{one_line(name, 80)!r} is not a field here: use {', '.join(names)}")


def options_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a query's text, such as beam_size=4, as Python values."""
    return {name: literal(value) for name, value in values.items()}


def example_of(worker: Worker, item: Any, options: Mapping[str, Any]) -> Any:
    """An input as an example: a text, or bytes or {"image": base64} for a run that looks at images.

    A text is never the path of a file on this machine.
    """
    looks = worker.predictor.task.takes_images
    if isinstance(item, dict) and set(item) == {"image"} and isinstance(item["image"], str):
        try:
            item = base64.b64decode(item["image"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise Refused(400, "an input's image is not base64: encode the file's bytes") from error
    if looks != isinstance(item, bytes):
        wanted = 'images: send their bytes, or {"image": base64}' if looks else "texts: send strings"
        raise Refused(400, f"this run takes {wanted}")
    if not looks and not isinstance(item, str):
        raise Refused(400, "this run takes texts: send strings")
    with _file(item) if isinstance(item, bytes) else contextlib.nullcontext(item) as given:
        try:
            return worker.check(given, options)
        except UserError as error:
            told = str(error).replace(str(given), "the image") if looks else str(error)
            raise Refused(400, one_line(told, 500)) from error


@contextlib.contextmanager
def _file(content: bytes):
    with tempfile.NamedTemporaryFile(prefix="heed-") as file:
        file.write(content)
        file.flush()
        yield Path(file.name)
