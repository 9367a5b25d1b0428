"""Trained runs as a web application: `POST /predict`, OpenAI's `/v1/completions` and `/v1/embeddings`, and a page."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from research.errors import UserError, one_line
from research.reports.page import page
from research.serving import completions, trying
from research.serving.requests import (
    MOST_INPUTS,
    Refused,
    body_of,
    example_of,
    json_of,
    only,
    options_of,
    refusal,
    worker_of,
)
from research.serving.worker import Busy, Job, Worker

type Workers = Mapping[str, Worker]


def application(workers: Workers, hosts: list[str], token: str | None) -> Starlette:
    """The answers of these runs, for requests that name one of `hosts` ("*": any) and, if given, have the token."""
    counted: dict[tuple[str, int], int] = {}

    def route(path: str, answer: Callable[[Workers, Request], Awaitable[Response]], method: str = "POST") -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                response = await answer(workers, request)
            except Refused as error:
                response = refusal(error)
            except Busy:
                response = refusal(Refused(503, "too many questions wait: ask again in a moment"))
            except UserError as error:
                response = refusal(Refused(400, one_line(str(error), 500)))
            except Exception as error:  # of this question alone
                response = refusal(Refused(500, f"the run failed: {type(error).__name__}"))
            key = path, response.status_code
            counted[key] = counted.get(key, 0) + 1
            return response

        return Route(path, endpoint, methods=[method])

    async def measures(request: Request) -> Response:
        return PlainTextResponse(_measures(workers, counted), media_type="text/plain; version=0.0.4")

    async def index(request: Request) -> Response:
        return HTMLResponse(trying.form(workers, token is not None))

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        for worker in workers.values():
            worker.close()

    routes = [
        Route("/", index),
        Route("/metrics", measures),
        route("/predict", predict),
        route("/try", tried),
        route("/v1/models", completions.models, "GET"),
        route("/v1/completions", completions.complete),
        route("/v1/embeddings", completions.embed),
    ]
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts), Middleware(_Token, token=token)]
    return Starlette(routes=routes, middleware=middleware, lifespan=lifespan)


class _Token:
    """Lets those through who have the token; the page, which asks for it, is open to all."""

    def __init__(self, app: ASGIApp, token: str | None):
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.token is not None and scope["path"] != "/":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not secrets.compare_digest(given, f"Bearer {self.token}".encode()):
                refused = refusal(Refused(401, "this server asks for its token: send Authorization: Bearer TOKEN"))
                await refused(scope, receive, send)
                return
        await self.app(scope, receive, send)


async def predict(workers: Workers, request: Request) -> Response:
    """Answers to `inputs`, or to one image that is the body itself."""
    name, examples, options = await _asked(workers, request)
    asked = workers[name].submit(*(Job(example, options) for example in examples))
    answers = await asyncio.gather(*map(asyncio.wrap_future, asked))
    return JSONResponse({"run": name, "answers": answers})


async def tried(workers: Workers, request: Request) -> Response:
    """A page about one input: the answer, drawn where it is a place, and where the model looked."""
    name, (example, *_), options = await _asked(workers, request)
    (asked,) = workers[name].submit(Job(example, options))
    answer = await asyncio.wrap_future(asked)
    content = await asyncio.to_thread(trying.shown, workers[name].predictor, example, answer)
    return HTMLResponse(page(name, "", content, None))


async def _asked(workers: Workers, request: Request) -> tuple[str, list[Any], dict[str, Any]]:
    """The run, the examples and the options of a request."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("image/") or kind == "application/octet-stream":
        values = dict(request.query_params)
        name, worker = worker_of(workers, values.pop("run", None))
        inputs, options = [await body_of(request)], options_of(values)
    else:
        values = await json_of(request)
        only(values, "run", "inputs", "options")
        name, worker = worker_of(workers, values.get("run"))
        inputs, options = values.get("inputs"), values.get("options", {})
    if not isinstance(inputs, list) or not 0 < len(inputs) <= MOST_INPUTS:
        raise Refused(400, f"inputs is to be a list of 1 to {MOST_INPUTS} inputs")
    if not isinstance(options, dict):
        raise Refused(400, "options is to be an object, such as {}")
    examples = [await asyncio.to_thread(example_of, worker, item, options) for item in inputs]
    return name, examples, options


def _measures(workers: Workers, counted: Mapping[tuple[str, int], int]) -> str:
    """In Prometheus' text format, whose labels are escaped as JSON is."""
    lines = ["# TYPE heed_requests_total counter"]
    lines += [f'heed_requests_total{{path="{path}",status="{status}"}} {n}' for (path, status), n in counted.items()]
    kinds = dict.fromkeys(("answers", "batches", "failures", "seconds"), "counter") | {"waiting": "gauge"}
    for name, kind in kinds.items():
        full = f"heed_{name}" if kind == "gauge" else f"heed_{name}_total"
        lines.append(f"# TYPE {full} {kind}")
        for run, worker in workers.items():
            value = worker.waiting if name == "waiting" else getattr(worker.counts, name)
            lines.append(f"{full}{{run={json.dumps(run)}}} {value}")
    return "\n".join(lines) + "\n"
