"""The pages of all runs below a folder as a web application that reads them anew whenever they have changed."""

import functools
import math
import time
from html import escape
from pathlib import Path
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from research.errors import UserError
from research.files import fits
from research.reports.page import page, run_page, sweep_page
from research.reports.records import Record, State, read_run, section, state_of
from research.reports.run_folders import Found, runs_of
from research.reports.sections import progress

LIST_SECONDS = 5


class _Anything(PathConvertor):
    regex = "(?s:.*)"  # names of folders may hold line breaks


register_url_convertor("anything", _Anything())


def application(root: Path, hosts: list[str]) -> Starlette:
    """The pages of the runs under `root`, for requests that name one of `hosts` ("*": any)."""
    listing = Listing(root)

    def index(request: Request) -> Response:
        return HTMLResponse(listing.page())

    def run(request: Request) -> Response:
        # What is asked for is looked up among the runs, never joined to a path.
        found = runs_of(root).get(request.path_params["name"])
        if found is None:
            return PlainTextResponse("there is no such run: see the list at /", 404)
        try:
            return HTMLResponse(_page(found, _state(found, root), root.resolve()))
        except Exception as error:  # of this run alone: it may be damaged, or just be deleted
            if not found.folder.exists():
                return PlainTextResponse("there is no such run any more: see the list at /", 404)
            return PlainTextResponse(_told(error, found).encode("utf-8", "replace"), 500)

    routes = [Route("/", index), Route("/runs/{name:anything}", run)]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)])


@functools.lru_cache(maxsize=8)
def _page(found: Found, state: State, root: Path) -> str:
    """A page of about 5 MB; what has changed of the run makes it anew."""
    return sweep_page(found.folder, root) if found.sweep else run_page([read_run(found.folder, state, root)])


class Listing:
    """The list of all runs; it makes a row anew when its run has changed, and forgets those that are gone."""

    def __init__(self, root: Path):
        self._root = root
        self._rows: dict[tuple[Found, State], str] = {}

    def page(self) -> str:
        """The list as it is now."""
        runs = runs_of(self._root).values()
        keys = [(found, _state(found, self._root)) for found in sorted(runs, key=lambda one: (-one.changed, one.name))]
        known = self._rows
        self._rows = {key: known.get(key) or _row(*key, self._root.resolve()) for key in keys}
        head = "".join(f"<th scope=col>{name}</th>" for name in ("run", "state", "progress", "best", "last update"))
        table = f'<div class="scroll runs"><table><tr>{head}</tr>{"".join(self._rows.values())}</table></div>'
        lead = f"{len(keys)} runs in {escape(str(self._root))}, refreshed every {LIST_SECONDS} seconds."
        return page("Runs", f"<p class=lead>{lead}</p>", {"": table} if keys else {}, LIST_SECONDS)


def _row(found: Found, state: State, root: Path) -> str:
    """A row of the list; of a run that cannot be read it holds the reason."""
    link = f'<a href="/runs/{quote(found.name)}">{escape(found.name or found.folder.name)}</a>'
    try:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.changed))
        cells = ["", ""]
        if not found.sweep:
            record = read_run(found.folder, state, root)
            cells = [progress(record), _best(record)]
    except Exception as error:
        moment, cells = "", [_told(error, found), ""]
    kind = "sweep" if found.sweep else f'<span class="state {state}">{state}</span>'
    told = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f"<tr><th scope=row dir=auto>{link}</th><td>{kind}</td>{told}<td>{moment}</td></tr>"


def _best(record: Record) -> str:
    """The best of what the run is judged by: the checkpoints' metric, else the validation loss."""
    policy = section(record.config, "checkpoint")
    name = policy.get("best") or "validation/loss"
    values = [value for value in record.curve(name)[1].tolist() if math.isfinite(value)] if fits(name, str) else []
    best = max if policy.get("mode") == "max" else min
    return f"{name} {best(values):.4g}" if values else ""


def _told(error: Exception, found: Found) -> str:
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {str(error)[:200]}"
    return f"{found.name or found.folder.name} cannot be shown: {text}"


def _state(found: Found, root: Path) -> State:
    return "finished" if found.sweep or found.finished else state_of(found.folder, root)
